import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const PROGRAM = fileURLToPath(new URL('../../src/bin/midonet.js', import.meta.url));

function midonet(...words: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    // Nothing of this machine's own configuration.
    const env = { PATH: process.env.PATH, MIDONET_CONFIG: '/dev/null' };
    execFile(process.execPath, [PROGRAM, ...words], { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

for (const command of ['agent', 'cluster', 'nsdb serve', 'standalone']) {
  test(`midonet ${command} --help shows an example`, async (t) => {
    const { status, stdout } = await midonet(...command.split(' '), '--help');
    t.is(status, 0);
    t.regex(stdout, new RegExp(`Example:\\n  \\$ .*midonet ${command}`));
    t.regex(stdout, /--config <file>/);
  });
}

test('midonet --version says which it is', async (t) => {
  const { status, stdout } = await midonet('--version');
  t.is(status, 0);
  t.regex(stdout, /^\d+\.\d+\.\d+\n$/);
});

for (const words of [['agents'], ['agent', '--conf'], ['agent', 'now'], ['nsdb'], ['nsdb', 'run'], []]) {
  test(`\`${['midonet', ...words].join(' ')}\` is refused with the usage`, async (t) => {
    const { status, stderr } = await midonet(...words);
    t.not(status, 0);
    t.regex(stderr, /Usage: midonet/);
  });
}

const CONFIGURATIONS: readonly [what: string, text: string, message: RegExp][] = [
  ['no YAML', 'nsdb: [', /config: is not YAML or JSON \(Flow sequence/],
  ['an unknown field', 'datapaths: 1', /datapaths/],
  [
    'an address',
    'tunnels: { zones: [{ name: a, type: vxlan, address: 10.0.0 }] }',
    /config\.tunnels\.zones\[0\]\.address: expected an IPv4 address of this host, got "10\.0\.0"/,
  ],
  ['a path', 'cni: { socket: x }', /config\.cni\.socket: .*absolute path, got "x"/],
  ['a number', 'http: { port: 70000 }', /config\.http\.port: .*65535, got 70000/],
];

for (const [what, text, message] of CONFIGURATIONS) {
  test(`midonet agent refuses a configuration that is wrong: ${what}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'midonet-config-'));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const file = join(folder, 'midonet.yaml');
    await writeFile(file, text);
    const { status, stdout, stderr } = await midonet('agent', '--config', file);
    t.is(status, 1, stdout);
    t.regex(stderr, /^midonet: .* \(MN_[A-Z_]+\)\n$/);
    t.regex(stderr, message);
  });
}
