import * as z from 'zod';
import type { NetworkDescription, Subnet } from '../src/agent/attachments/networks.js';
import { InvalidInputError } from '../src/errors.js';
import { formatMac, isMulticastMac, parseMac } from '../src/packet/address.js';
import { type Cidr, cidrContains, formatCidr, formatIp, parseCidr, parseIp } from '../src/packet/ip.js';
import { nameSchema } from '../src/topology/types.js';
import { validate } from '../src/topology/validate.js';
import type { CniEnvironment } from './environment.js';
import { isContainerId } from './environment.js';
import { CniCode, CniError, invalidEnvironment, unsupportedField } from './errors.js';
import { type CniVersion, isSupportedVersion, SUPPORTED_VERSIONS } from './versions.js';

/** How errors name the configuration: `config.subnets[0].cidr`. */
const CONFIG = 'config';

const MIN_MTU = 68;
/** RFC 8200 section 5. */
const MIN_IPV6_MTU = 1280;

const subnetSchema = z.strictObject({
  cidr: z.string(),
  gateway: z.string().optional(),
  blockSize: z.int().optional(),
});

const dnsSchema = z.object({
  nameservers: z.array(z.string()).optional(),
  domain: z.string().optional(),
  search: z.array(z.string()).optional(),
  options: z.array(z.string()).optional(),
});

/** DNS settings of a result. */
export type Dns = z.output<typeof dnsSchema>;

const configurationSchema = z.object({
  name: nameSchema,
  type: z.literal('midonet'),
  subnets: z.array(subnetSchema).min(1, 'expected one IPv4 subnet, one IPv6 subnet, or both').max(2),
  mtu: z.int().min(MIN_MTU).max(65535).optional(),
  defaultRoute: z.boolean().optional(),
  dns: dnsSchema.optional(),
  capabilities: z.record(z.string(), z.boolean()).optional(),
  args: z.object({ cni: z.object({ ips: z.array(z.string()).optional() }).optional() }).optional(),
  runtimeConfig: z
    .looseObject({
      ips: z.array(z.string()).nullish(),
      mac: z.string().nullish(),
      dns: z
        .object({
          servers: z.array(z.string()).nullish(),
          searches: z.array(z.string()).nullish(),
          options: z.array(z.string()).nullish(),
        })
        .nullish(),
    })
    .nullish(),
  prevResult: z.looseObject({}).nullish(),
});

/** Fields that this plugin has, those that libcni has for all plugins, and nothing else: the rest would be ignored. */
const KNOWN_FIELDS: ReadonlySet<string> = new Set([
  ...Object.keys(configurationSchema.shape),
  'cniVersion',
  'socket',
  'cniVersions',
  'disableCheck',
  'disableGC',
  'loadOnlyInlinedPlugins',
]);

const KNOWN_RUNTIME_FIELDS: ReadonlySet<string> = new Set(['ips', 'mac', 'dns']);

/** A network configuration that has been checked, with what the runtime asked for in this call. */
export interface Configuration {
  readonly network: NetworkDescription;
  readonly mtu: number | undefined;
  readonly defaultRoute: boolean;
  readonly dns: Dns | undefined;
  /** Addresses asked for, canonical. */
  readonly addresses: readonly string[];
  readonly mac: string | undefined;
}

/** What every command needs of a configuration. */
export interface ConfigurationHead {
  readonly raw: Readonly<Record<string, unknown>>;
  readonly version: CniVersion;
  readonly name: string;
}

/** @throws CniError code 6 */
export function parseJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CniError(CniCode.Decode, `the network configuration is not JSON: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CniError(CniCode.Decode, 'the network configuration is not a JSON object');
  }
  return value as Record<string, unknown>;
}

/**
 * Version and name, which DEL and GC make do with: they must succeed for what an older agent accepted.
 * @throws CniError code 1; InvalidInputError
 */
export function readHead(raw: Record<string, unknown>): ConfigurationHead {
  const version = raw.cniVersion;
  if (!isSupportedVersion(version)) {
    throw new CniError(
      CniCode.IncompatibleVersion,
      `config.cniVersion: ${JSON.stringify(version) ?? 'missing'} is not supported, expected one of ${SUPPORTED_VERSIONS.join(', ')}`,
    );
  }
  return { raw, version, name: validate(nameSchema, raw.name, `${CONFIG}.name`) };
}

/**
 * Check the whole configuration.
 * @throws CniError code 2 for a field that is not supported; InvalidInputError for one that is malformed
 */
export function readConfiguration(head: ConfigurationHead, environment: CniEnvironment): Configuration {
  const { raw } = head;
  for (const field of Object.keys(raw)) {
    if (KNOWN_FIELDS.has(field) || field.startsWith('cni.dev/')) continue;
    throw unsupportedField(`${CONFIG}.${field}`, raw[field]);
  }
  const config = validate(configurationSchema, raw, CONFIG);
  const { runtimeConfig } = config;
  for (const [field, value] of Object.entries(runtimeConfig ?? {})) {
    if (!KNOWN_RUNTIME_FIELDS.has(field) && !isEmpty(value)) {
      throw unsupportedField(`${CONFIG}.runtimeConfig.${field}`, value);
    }
  }
  const ranges: Cidr[] = [];
  const subnets = config.subnets.map((subnet, i) => readSubnet(subnet, `${CONFIG}.subnets[${i}]`, ranges));
  if (config.mtu !== undefined && config.mtu < MIN_IPV6_MTU && ranges.some((range) => range.family === 6)) {
    throw new InvalidInputError(`${CONFIG}.mtu`, config.mtu, `expected at least ${MIN_IPV6_MTU} for IPv6`);
  }
  if (config.defaultRoute === true && subnets.every((subnet) => subnet.gateway === undefined)) {
    throw new InvalidInputError(`${CONFIG}.defaultRoute`, true, 'expected a subnet with a gateway for a default route');
  }
  return {
    network: { name: head.name, subnets },
    mtu: config.mtu,
    defaultRoute: config.defaultRoute ?? true,
    dns: mergeDns(config.dns, runtimeConfig?.dns),
    addresses: readAddresses(config, environment, ranges),
    mac: readMac(runtimeConfig?.mac, environment),
  };
}

function readSubnet(input: z.output<typeof subnetSchema>, field: string, ranges: Cidr[]): Subnet {
  const range = parseCidr(input.cidr);
  const slash = input.cidr.indexOf('/');
  const written = range && parseIp(input.cidr.slice(0, slash));
  if (range === undefined || written === undefined) {
    throw new InvalidInputError(`${field}.cidr`, input.cidr, 'expected an address range such as 10.0.0.0/16');
  }
  if (formatIp(written) !== formatIp(range)) {
    throw new InvalidInputError(
      `${field}.cidr`,
      input.cidr,
      `expected the range without host bits, ${formatCidr(range)}`,
    );
  }
  if (ranges.some((other) => other.family === range.family)) {
    throw new InvalidInputError(`${field}.cidr`, input.cidr, `expected at most one IPv${range.family} subnet`);
  }
  ranges.push(range);
  const width = range.family === 4 ? 32 : 128;
  const { blockSize } = input;
  const least = Math.max(range.prefix, width - 16);
  if (blockSize !== undefined && (blockSize < least || blockSize > width)) {
    throw new InvalidInputError(`${field}.blockSize`, blockSize, `expected a prefix length from ${least} to ${width}`);
  }
  const cidr = formatCidr(range);
  if (input.gateway === undefined) return { cidr, blockSize };
  const gateway = parseIp(input.gateway);
  if (gateway === undefined || !cidrContains(range, gateway)) {
    throw new InvalidInputError(`${field}.gateway`, input.gateway, `expected an address of ${cidr}`);
  }
  return { cidr, blockSize, gateway: formatIp(gateway) };
}

/** Addresses asked for, from the three places where runtimes put them (CONVENTIONS.md of the specification). */
function readAddresses(
  config: z.output<typeof configurationSchema>,
  environment: CniEnvironment,
  ranges: readonly Cidr[],
): string[] {
  const found = new Set<string>();
  const add = (text: string, field: string) => {
    const [addressText, prefixText, ...more] = text.trim().split('/');
    const ip = parseIp(addressText);
    const range = ip && ranges.find((candidate) => cidrContains(candidate, ip));
    if (ip === undefined || range === undefined || more.length > 0) {
      throw new InvalidInputError(field, text, `expected an address of ${ranges.map(formatCidr).join(' or ')}`);
    }
    if (prefixText !== undefined && prefixText !== String(range.prefix)) {
      throw new InvalidInputError(field, text, `expected the prefix length of the subnet, /${range.prefix}`);
    }
    found.add(formatIp(ip));
  };
  for (const [i, text] of (config.runtimeConfig?.ips ?? []).entries()) add(text, `${CONFIG}.runtimeConfig.ips[${i}]`);
  for (const [i, text] of (config.args?.cni?.ips ?? []).entries()) add(text, `${CONFIG}.args.cni.ips[${i}]`);
  const fromArgs = environment.args.get('IP');
  if (fromArgs !== undefined && fromArgs !== '') {
    try {
      for (const text of fromArgs.split(',')) add(text, 'CNI_ARGS IP');
    } catch (error) {
      throw error instanceof InvalidInputError ? invalidEnvironment(error) : error;
    }
  }
  return [...found];
}

function readMac(fromRuntime: string | null | undefined, environment: CniEnvironment): string | undefined {
  if (fromRuntime) return checkMac(fromRuntime, `${CONFIG}.runtimeConfig.mac`);
  const fromArgs = environment.args.get('MAC');
  if (!fromArgs) return undefined;
  try {
    return checkMac(fromArgs, 'CNI_ARGS MAC');
  } catch (error) {
    throw error instanceof InvalidInputError ? invalidEnvironment(error) : error;
  }
}

function checkMac(text: string, field: string): string {
  const mac = parseMac(text);
  if (mac === undefined || mac === 0 || isMulticastMac(mac)) {
    throw new InvalidInputError(field, text, 'expected the MAC address of a station, such as 02:00:00:00:00:01');
  }
  return formatMac(mac);
}

type RuntimeDns = NonNullable<z.output<typeof configurationSchema>['runtimeConfig']>['dns'];

/** What the runtime says goes before what the configuration says. */
function mergeDns(configured: Dns | undefined, runtime: RuntimeDns): Dns | undefined {
  if (!runtime) return configured;
  return {
    ...configured,
    ...(runtime.servers ? { nameservers: runtime.servers } : {}),
    ...(runtime.searches ? { search: runtime.searches } : {}),
    ...(runtime.options ? { options: runtime.options } : {}),
  };
}

/** A value that asks for nothing: the zero values of Go, which runtimes fill in, and what consists of them. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === '' || value === false || value === 0) return true;
  return typeof value === 'object' && Object.values(value).every(isEmpty);
}

const validAttachments = z.array(z.object({ containerID: z.string(), ifname: z.string() }));

/**
 * The attachments that GC shall keep. The list must be there: without it everything would be removed.
 * @throws InvalidInputError
 */
export function readValidAttachments(raw: Readonly<Record<string, unknown>>): {
  containerId: string;
  interfaceName: string;
}[] {
  const field = 'cni.dev/valid-attachments';
  const given = raw[field] === undefined ? raw['cni.dev/attachments'] : raw[field];
  // libcni writes null for a list with nothing in it.
  const list = given === null ? [] : validate(validAttachments, given, `${CONFIG}["${field}"]`);
  return list.map(({ containerID, ifname }, i) => {
    if (!isContainerId(containerID)) {
      throw new InvalidInputError(`${CONFIG}["${field}"][${i}].containerID`, containerID, 'expected a container ID');
    }
    return { containerId: containerID, interfaceName: ifname };
  });
}
