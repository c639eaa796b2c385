import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import * as z from 'zod';
import { MACS_PER_PORT } from '../agent/learning/mac-learner.js';
import { roleRuleSchema } from '../api/authentication/roles.js';
import { SOCKET_LIMITS } from '../api/protection/socket-limits.js';
import { InvalidInputError } from '../errors.js';
import { CONSISTENCIES } from '../nsdb/flow-state/consistency.js';
import { interfaceNameSchema, nameSchema } from '../topology/types.js';
import { validate } from '../topology/validate.js';

const absolutePath = z.string().regex(/^\/./, 'expected an absolute path');
const port = z.int('expected a whole number').min(0, 'expected at least 0').max(65535, 'expected at most 65535');

const copies = z.int().min(1, 'expected at least 1').max(100);
const contactPoint = z
  .string()
  .regex(/^(\[[0-9a-fA-F:.]+\]|[^:[\]\s]+)(:\d{1,5})?$/, 'expected host:port, IPv6 addresses in brackets');

const zoneSchema = z.strictObject({
  name: nameSchema,
  type: z.enum(['vxlan', 'gre'], 'expected vxlan or gre'),
  address: z.ipv4('expected an IPv4 address of this host'),
});

/** The configuration file (YAML or JSON), with defaults. docs/configuration.md explains each field. */
export const configSchema = z.strictObject({
  host: z
    .strictObject({
      /** Made up on the first start and kept in the state folder when absent. */
      id: z.uuid('expected a UUID').toLowerCase().optional(),
      name: nameSchema.default(() => hostname()),
    })
    .prefault({}),
  /** Identity, tunnel keys, attachments: what must survive a restart. */
  stateFolder: absolutePath.default('/var/lib/midonet'),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info') }).prefault({}),
  nsdb: z
    .strictObject({
      /** Servers the agent uses: host:port[,host:port…][/root] or unix:/path. */
      connect: z.string().min(1, 'expected host:port or unix:/path').default('127.0.0.1:2181'),
      /** Where the embedded server listens: host:port or unix:/path. */
      listen: z.string().min(1, 'expected host:port or unix:/path').default('127.0.0.1:2181'),
      dataFolder: absolutePath.default('/var/lib/midonet/nsdb'),
      /** Bytes of the disk that the embedded server leaves free. */
      diskReserve: z
        .int('expected a number of bytes')
        .min(0, 'expected at least 0')
        .default(64 * 1024 * 1024),
      /** Metrics and health of the embedded server. */
      http: z
        .strictObject({
          host: z.string().min(1).default('127.0.0.1'),
          port: port.default(7301),
        })
        .prefault({}),
      /** Milliseconds. */
      sessionTimeout: z.int().min(1000, 'expected at least 1000 ms').max(600_000).default(30_000),
      /** Whom the NSDB knows this cluster's programs as. */
      user: z
        .string()
        .regex(/^[^\s:,/]{1,64}$/, 'expected 1 to 64 characters without space, colon, comma and slash')
        .default('midonet'),
      passwordFile: absolutePath.optional(),
      /** Of those who use the embedded server. Absent: required with a password file, or beyond loopback. */
      authentication: z.enum(['required', 'off'], 'expected required or off').optional(),
      /** PEM files; see nsdb-connection.ts. */
      tls: z
        .strictObject({
          ca: absolutePath.optional(),
          certificate: absolutePath.optional(),
          key: absolutePath.optional(),
        })
        .optional(),
    })
    .prefault({}),
  datapath: z
    .strictObject({
      /** Name of the kernel datapath and of its local interface. */
      name: interfaceNameSchema.default('midonet'),
    })
    .prefault({}),
  tunnels: z
    .strictObject({
      /** UDP port of VXLAN. */
      vxlanPort: port.min(1, 'expected at least 1').default(6677),
      zones: z.array(zoneSchema).default([]),
    })
    .prefault({}),
  flows: z
    .strictObject({
      /** Seconds. */
      idleTimeout: z.number().min(1, 'expected at least 1 second').default(60),
      maxFlows: z.int().min(16, 'expected at least 16').max(1_000_000).default(200_000),
    })
    .prefault({}),
  learning: z
    .strictObject({
      /** MAC addresses learned behind one port. */
      macsPerPort: z.int().min(1, 'expected at least 1').max(1_000_000).default(MACS_PER_PORT),
    })
    .prefault({}),
  flowState: z
    .strictObject({
      /** UDP port at which hosts tell each other of connections. */
      port: port.min(1, 'expected at least 1').default(6688),
      archive: z.enum(['nsdb', 'cassandra'], 'expected nsdb or cassandra').default('nsdb'),
      /** Only for `archive: cassandra`. */
      cassandra: z
        .strictObject({
          contactPoints: z.array(contactPoint).min(1, 'expected at least one host:port').default(['127.0.0.1:9042']),
          localDataCenter: z.string().min(1).default('datacenter1'),
          keyspace: z
            .string()
            .regex(/^[a-z][a-z0-9_]{0,47}$/, 'expected 1 to 48 lower-case letters, digits and "_"')
            .default('midonet_flow_state'),
          /** Copies, or copies by data center. */
          replication: z.union([copies, z.record(z.string().min(1), copies)]).default(1),
          consistency: z.enum(CONSISTENCIES).default('localQuorum'),
          user: z.string().min(1).optional(),
          passwordFile: absolutePath.optional(),
          /** Milliseconds. */
          operationTimeout: z.int().min(100, 'expected at least 100 ms').max(60_000).default(5000),
        })
        .prefault({}),
    })
    .prefault({}),
  /** The REST API, of `midonet cluster` and `midonet standalone`. */
  api: z
    .strictObject({
      /** host:port or unix:/path. */
      listen: z.string().min(1, 'expected host:port or unix:/path').default('127.0.0.1:8181'),
      /** PEM files; see api-settings.ts. */
      tls: z
        .strictObject({
          certificate: absolutePath.optional(),
          key: absolutePath.optional(),
          clientCa: absolutePath.optional(),
        })
        .optional(),
      /** Of those who use the API. Absent: required where there is a way to show who one is, or beyond loopback. */
      authentication: z.enum(['required', 'off'], 'expected required or off').optional(),
      /** A bearer token that is an admin's. */
      adminTokenFile: absolutePath.optional(),
      /** Of certificates and accounts of Kubernetes; the first that fits counts. */
      roles: z.array(roleRuleSchema).default([]),
      /** Take tokens of Kubernetes. */
      kubernetes: z
        .strictObject({
          /** Absent: the account of the pod this runs in. */
          kubeconfig: absolutePath.optional(),
          audiences: z.array(z.string().min(1)).default([]),
          /** Milliseconds. */
          timeout: z.int().min(100, 'expected at least 100 ms').max(30_000).default(5000),
        })
        .optional(),
      limits: z
        .strictObject({
          /** Of one caller. */
          requestsPerSecond: z.int().min(1, 'expected at least 1').max(1_000_000).default(500),
          /** Of one address, without knowing who it is. */
          failuresPerMinute: z.int().min(1, 'expected at least 1').max(1_000_000).default(30),
          connections: z.int().min(1, 'expected at least 1').max(1_000_000).default(SOCKET_LIMITS.connections),
          connectionsPerAddress: z
            .int()
            .min(1, 'expected at least 1')
            .max(1_000_000)
            .default(SOCKET_LIMITS.connectionsPerAddress),
        })
        .prefault({}),
      /** Where changes and refused requests are recorded. Absent: in the log. */
      auditFile: absolutePath.optional(),
      /** Metrics and health. */
      http: z
        .strictObject({
          host: z.string().min(1).default('127.0.0.1'),
          port: port.default(7303),
        })
        .prefault({}),
    })
    .prefault({}),
  cni: z.strictObject({ socket: absolutePath.default('/run/midonet/cni.sock') }).prefault({}),
  /** Metrics and health. */
  http: z
    .strictObject({
      host: z.string().min(1).default('127.0.0.1'),
      port: port.default(7300),
    })
    .prefault({}),
  /** Where the API server asks the agent. */
  control: z
    .strictObject({
      /** The address of the first tunnel zone when absent, or else 127.0.0.1. */
      host: z.string().min(1).optional(),
      port: port.default(7302),
    })
    .prefault({}),
});

export type Config = z.output<typeof configSchema>;

/** Environment variables and the field each sets. They come before the file. */
export const ENVIRONMENT: Readonly<Record<string, readonly string[]>> = {
  MIDONET_HOST_ID: ['host', 'id'],
  MIDONET_HOST_NAME: ['host', 'name'],
  MIDONET_STATE_FOLDER: ['stateFolder'],
  MIDONET_LOG_LEVEL: ['log', 'level'],
  MIDONET_NSDB_CONNECT: ['nsdb', 'connect'],
  MIDONET_NSDB_LISTEN: ['nsdb', 'listen'],
  MIDONET_NSDB_DATA_FOLDER: ['nsdb', 'dataFolder'],
  MIDONET_NSDB_DISK_RESERVE: ['nsdb', 'diskReserve'],
  MIDONET_NSDB_HTTP_HOST: ['nsdb', 'http', 'host'],
  MIDONET_NSDB_HTTP_PORT: ['nsdb', 'http', 'port'],
  MIDONET_NSDB_SESSION_TIMEOUT: ['nsdb', 'sessionTimeout'],
  MIDONET_NSDB_USER: ['nsdb', 'user'],
  MIDONET_NSDB_PASSWORD_FILE: ['nsdb', 'passwordFile'],
  MIDONET_NSDB_AUTHENTICATION: ['nsdb', 'authentication'],
  MIDONET_NSDB_TLS_CA: ['nsdb', 'tls', 'ca'],
  MIDONET_NSDB_TLS_CERTIFICATE: ['nsdb', 'tls', 'certificate'],
  MIDONET_NSDB_TLS_KEY: ['nsdb', 'tls', 'key'],
  MIDONET_DATAPATH: ['datapath', 'name'],
  MIDONET_FLOW_STATE_PORT: ['flowState', 'port'],
  MIDONET_FLOW_STATE_ARCHIVE: ['flowState', 'archive'],
  MIDONET_API_LISTEN: ['api', 'listen'],
  MIDONET_API_TLS_CERTIFICATE: ['api', 'tls', 'certificate'],
  MIDONET_API_TLS_KEY: ['api', 'tls', 'key'],
  MIDONET_API_TLS_CLIENT_CA: ['api', 'tls', 'clientCa'],
  MIDONET_API_AUTHENTICATION: ['api', 'authentication'],
  MIDONET_API_ADMIN_TOKEN_FILE: ['api', 'adminTokenFile'],
  MIDONET_API_AUDIT_FILE: ['api', 'auditFile'],
  MIDONET_API_HTTP_HOST: ['api', 'http', 'host'],
  MIDONET_API_HTTP_PORT: ['api', 'http', 'port'],
  MIDONET_CNI_SOCKET: ['cni', 'socket'],
  MIDONET_HTTP_HOST: ['http', 'host'],
  MIDONET_HTTP_PORT: ['http', 'port'],
  MIDONET_CONTROL_HOST: ['control', 'host'],
  MIDONET_CONTROL_PORT: ['control', 'port'],
  MIDONET_VXLAN_PORT: ['tunnels', 'vxlanPort'],
  MIDONET_TUNNEL_ZONES: ['tunnels', 'zones'],
  MIDONET_FLOW_IDLE_TIMEOUT: ['flows', 'idleTimeout'],
  MIDONET_MAX_FLOWS: ['flows', 'maxFlows'],
  MIDONET_MACS_PER_PORT: ['learning', 'macsPerPort'],
};

/**
 * The configuration: environment before file before defaults.
 * @param path of the file; undefined: /etc/midonet/midonet.yaml if there is one
 * @throws InvalidInputError naming the field and its value
 */
export async function loadConfig(path: string | undefined, environment: NodeJS.ProcessEnv): Promise<Config> {
  const input = await readFile(path ?? environment.MIDONET_CONFIG);
  for (const [variable, field] of Object.entries(ENVIRONMENT)) {
    const value = environment[variable];
    if (value !== undefined && value !== '') setField(input, field, value);
  }
  return validate(configSchema, input, 'config');
}

/**
 * `host:port` or `unix:/path`, as servers of our own take it.
 * @throws InvalidInputError naming the field
 */
export function parseListen(field: string, text: string): { host: string; port: number } | { path: string } {
  if (text.startsWith('unix:/')) return { path: text.slice('unix:'.length) };
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(text);
  if (match === null || Number(match[3]) > 65535) {
    throw new InvalidInputError(field, text, 'expected host:port or unix:/path');
  }
  return { host: match[1] ?? match[2], port: Number(match[3]) };
}

const DEFAULT_FILE = '/etc/midonet/midonet.yaml';

async function readFile(path: string | undefined): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = readFileSync(path ?? DEFAULT_FILE, 'utf8');
  } catch (error) {
    if (path === undefined && (error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new InvalidInputError('config', path ?? DEFAULT_FILE, `cannot be read (${(error as Error).message})`);
  }
  let value: unknown;
  try {
    // JSON is YAML too, and needs no library.
    value = text.startsWith('{') ? JSON.parse(text) : (await import('./yaml.js')).parseYaml(text);
  } catch (error) {
    throw new InvalidInputError(
      'config',
      path ?? DEFAULT_FILE,
      `is not YAML or JSON (${(error as Error).message.split('\n')[0]})`,
    );
  }
  if (value === null || value === undefined) return {};
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new InvalidInputError('config', value, 'expected a mapping of fields');
  }
  return value as Record<string, unknown>;
}

function setField(target: Record<string, unknown>, field: readonly string[], text: string): void {
  let at = target;
  for (const key of field.slice(0, -1)) {
    const inner = at[key];
    // A field of the wrong type is left for validation to name.
    if (inner !== undefined && (typeof inner !== 'object' || inner === null)) return;
    at[key] = { ...(inner as Record<string, unknown> | undefined) };
    at = at[key] as Record<string, unknown>;
  }
  const last = field.at(-1)!;
  // Text that is no number is left for validation to name.
  if (last === 'zones') at[last] = parseZones(text, field);
  else at[last] = NUMBERS.has(last) && /^\d+(\.\d+)?$/.test(text) ? Number(text) : text;
}

const NUMBERS: ReadonlySet<string> = new Set([
  'port',
  'vxlanPort',
  'diskReserve',
  'sessionTimeout',
  'idleTimeout',
  'maxFlows',
  'macsPerPort',
]);

/** `name=type:address`, comma-separated. */
function parseZones(text: string, field: readonly string[]): unknown[] {
  return text.split(',').map((part) => {
    const match = /^([^=:]*)=([^=:]*):([^=:]*)$/.exec(part.trim());
    if (match === null) {
      const name = `config.${field.join('.')}`;
      throw new InvalidInputError(name, part, 'expected name=type:address, such as rack-1=vxlan:10.0.0.12');
    }
    return { name: match[1], type: match[2], address: match[3] };
  });
}
