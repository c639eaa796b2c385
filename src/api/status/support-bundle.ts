import { createRequire } from 'node:module';
import { release } from 'node:os';
import { within } from '../../deadline.js';
import { hostAlivePath } from '../../nsdb/layout.js';
import type { NsdbStatus } from '../../nsdb/operations/status.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { type Host, KINDS, type Kind } from '../../topology/types.js';
import { AgentLink } from '../explain/agent-link.js';
import { MASK } from '../requests/secrets.js';
import { clusterStatus } from './status.js';
import { TAR_END, tarFile } from './tar.js';

const { version } = createRequire(import.meta.url)('#package') as { version: string };

/** What a bundle is made of. */
export interface BundleSources {
  readonly repository: TopologyRepository;
  readonly nsdbStatus?: (signal: AbortSignal) => Promise<NsdbStatus>;
  /** Of the API server; absent where nobody can tell. */
  readonly configuration?: object;
  readonly signal: AbortSignal;
}

/** What a bundle holds of a kind of objects, of a host's flows, and of hosts, at most. */
const MAX_OBJECTS = 20_000;
const PAGE = 1000;
const MAX_FLOWS = 1000;
const MAX_HOSTS = 200;
const HOSTS_AT_ONCE = 8;
const PAGE_TIMEOUT_MS = 5000;

/** What is asked of each agent, and the file that it goes to. */
const AGENT_PAGES: readonly (readonly [path: string, file: string])[] = [
  ['/summary', 'summary.json'],
  ['/metrics', 'metrics.txt'],
  [`/flows?limit=${MAX_FLOWS}`, 'flows.json'],
];

interface BundleFile {
  readonly name: string;
  readonly content: Uint8Array;
}

/** What could not be got, or in part only. */
interface Missing {
  readonly what: string;
  readonly why: string;
}

/**
 * A tar archive, in pieces, of what is needed to find out from afar what is wrong: status, topology, configuration, and of each agent its
 * summary, metrics and flows; secrets are masked. The last file, `manifest.json`, says what is in it and what could not be got.
 */
export async function* supportBundle(sources: BundleSources): AsyncGenerator<Uint8Array, void> {
  const created = new Date();
  const folder = `midonet-support-${created.toISOString().slice(0, 19).replaceAll(':', '')}`;
  const missing: Missing[] = [];
  const files: { name: string; bytes: number }[] = [];
  for await (const { name, content } of bundleFiles(sources, missing)) {
    files.push({ name, bytes: content.length });
    yield tarFile(`${folder}/${name}`, content, created.getTime());
  }
  const manifest = {
    created: created.toISOString(),
    version,
    node: process.version,
    kernel: release(),
    files,
    missing,
  };
  yield tarFile(`${folder}/manifest.json`, jsonBytes(manifest), created.getTime());
  yield TAR_END;
}

async function* bundleFiles(sources: BundleSources, missing: Missing[]): AsyncGenerator<BundleFile> {
  const { repository, nsdbStatus, configuration, signal } = sources;
  if (configuration === undefined) missing.push({ what: 'configuration.json', why: 'not known here' });
  else yield { name: 'configuration.json', content: jsonBytes(masked(configuration)) };
  const status = await got('status.json', missing, signal, () =>
    clusterStatus({ repository, nsdb: nsdbStatus, signal }),
  );
  if (status !== undefined) yield { name: 'status.json', content: jsonBytes(status) };
  for (const kind of KINDS) {
    const name = `topology/${kind}.jsonl`;
    const content = await got(name, missing, signal, () => objectsOf(repository, kind, missing, signal));
    if (content !== undefined && content.length > 0) yield { name, content };
  }
  const hosts = (await got('hosts', missing, signal, () => hostsOf(repository, missing, signal))) ?? [];
  for (let i = 0; i < hosts.length; i += HOSTS_AT_ONCE) {
    const some = hosts.slice(i, i + HOSTS_AT_ONCE);
    const found = await Promise.all(some.map((host) => agentFiles(repository, host, missing, signal)));
    yield* found.flat();
  }
}

/** One object a line. */
async function objectsOf(
  repository: TopologyRepository,
  kind: Kind,
  missing: Missing[],
  signal: AbortSignal,
): Promise<Uint8Array> {
  const lines: string[] = [];
  const onUnreadable = (id: string, error: Error) => missing.push({ what: `${kind} ${id}`, why: error.message });
  let after: string | undefined;
  do {
    const page = await repository.page({ kind, after, limit: PAGE, signal, onUnreadable });
    for (const { object } of page.items) lines.push(`${JSON.stringify(masked(object))}\n`);
    after = page.next;
  } while (after !== undefined && lines.length < MAX_OBJECTS);
  if (after !== undefined) missing.push({ what: `topology/${kind}.jsonl`, why: `only ${lines.length} objects` });
  return Buffer.from(lines.join(''));
}

async function hostsOf(repository: TopologyRepository, missing: Missing[], signal: AbortSignal): Promise<Host[]> {
  const { items, next } = await repository.page({ kind: 'host', limit: MAX_HOSTS, signal });
  if (next !== undefined) missing.push({ what: 'hosts', why: `only the first ${MAX_HOSTS} were asked` });
  const alive = await readAhead(items, signal, async ({ object }, signal) => {
    const node = await repository.store.exists(hostAlivePath(object.id), { signal });
    if (node === undefined) missing.push({ what: `hosts/${object.name}`, why: 'no agent runs there' });
    return node === undefined ? [] : [object];
  });
  return alive.flat();
}

async function agentFiles(
  repository: TopologyRepository,
  { id, name: host }: Host,
  missing: Missing[],
  signal: AbortSignal,
): Promise<BundleFile[]> {
  const agents = new AgentLink(repository.store);
  const found: BundleFile[] = [];
  // Hosts may have one name.
  const folder = `hosts/${host.slice(0, 32)}-${id.slice(0, 8)}`;
  for (const [path, file] of AGENT_PAGES) {
    const name = `${folder}/${file}`;
    const page = await got(name, missing, signal, () => agents.get(id, path, within(PAGE_TIMEOUT_MS, signal)));
    if (page === undefined) continue;
    found.push({ name, content: typeof page === 'string' ? Buffer.from(page) : jsonBytes(page) });
  }
  return found;
}

/** What the reading gives; what it fails with is told in the manifest. Nothing goes on when the signal ends. */
async function got<T>(
  what: string,
  missing: Missing[],
  signal: AbortSignal,
  read: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    signal.throwIfAborted();
    missing.push({ what, why: (error as Error).message });
    return undefined;
  }
}

/** Fields with text that nobody else is to know; those that name a file do not hold it. */
const SECRET = /^(password|secret|token|key)$|(Password|Secret|Token)$/;

/** A copy without secrets. */
export function masked(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(masked);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      typeof inner === 'string' && SECRET.test(name) ? MASK : masked(inner),
    ]),
  );
}

function jsonBytes(value: unknown): Uint8Array {
  return Buffer.from(`${JSON.stringify(value, undefined, 2)}\n`);
}
