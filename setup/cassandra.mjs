// Apache Cassandra's jars for a test, fetched once by Maven into the cache. Nothing else needs them, so nothing fails without them.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from './kernel.mjs';
import { say, stderrOf } from './progress.mjs';

const VERSION = '5.0.2';

/** What hangs is given up: it is some 65 MB. */
const FETCH_LIMIT_MS = 300_000;

const POM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>midonet</groupId>
  <artifactId>cassandra-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId>
      <artifactId>cassandra-all</artifactId>
      <version>${VERSION}</version>
    </dependency>
  </dependencies>
</project>
`;

/** The folder of the jars, whether they are there or not. */
export function cassandraFolder() {
  return join(cacheFolder(), `cassandra-${VERSION}`);
}

/** Why Cassandra cannot run on this machine, or undefined when it can. */
export function cassandraMissing() {
  if (!existsSync(cassandraFolder()))
    return `its jars are not in ${cassandraFolder()}: npm test fetches them with Maven (mvn)`;
  if (spawnSync('java', ['-version'], { stdio: 'ignore' }).status !== 0) return 'there is no java';
  return undefined;
}

/** Fetches the jars, unless the cache has them or there is no Maven. Says what goes wrong, and lets the test be skipped. */
export function prepareCassandra() {
  const folder = cassandraFolder();
  if (existsSync(folder) || spawnSync('mvn', ['--version'], { stdio: 'ignore' }).status !== 0) return;
  say(`fetching the jars of Cassandra ${VERSION} for a test`);
  // Made beside its place: two set-ups may do so at once, or one may be interrupted.
  const part = `${folder}.${process.pid}`;
  try {
    mkdirSync(part, { recursive: true });
    writeFileSync(join(part, 'pom.xml'), POM);
    const jars = join(part, 'jars');
    const words = [
      '-B',
      '-q',
      '-f',
      join(part, 'pom.xml'),
      'dependency:copy-dependencies',
      `-DoutputDirectory=${jars}`,
    ];
    const maven = spawnSync('mvn', words, { encoding: 'utf8', timeout: FETCH_LIMIT_MS });
    if (maven.status !== 0 || !existsSync(jars) || readdirSync(jars).length === 0) {
      say(
        `Maven could not fetch them: ${maven.error?.message ?? (stderrOf({ stderr: maven.stdout }) || maven.signal)}`,
      );
    } else if (!existsSync(folder)) {
      renameSync(jars, folder);
    }
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
}
