import * as z from 'zod';
import type { Attachment } from '../src/agent/attachments/attachment.js';
import type { ListedAttachment } from '../src/agent/attachments/check.js';
import { formatMac, parseMac } from '../src/packet/address.js';
import { formatCidr, formatIp, parseCidr, parseIp } from '../src/packet/ip.js';
import { validate } from '../src/topology/validate.js';
import type { Dns } from './configuration.js';
import { atLeast, type CniVersion } from './versions.js';

/** A result of an earlier plugin of the chain. What this plugin does not look at is kept. */
const previousSchema = z.looseObject({
  interfaces: z
    .array(
      z.looseObject({
        name: z.string(),
        mac: z.string().nullish(),
        mtu: z.int().nullish(),
        sandbox: z.string().nullish(),
      }),
    )
    .nullish(),
  ips: z
    .array(z.looseObject({ address: z.string(), gateway: z.string().nullish(), interface: z.int().nullish() }))
    .nullish(),
  routes: z.array(z.looseObject({ dst: z.string(), gw: z.string().nullish() })).nullish(),
  dns: z.looseObject({}).nullish(),
});

export type PreviousResult = z.output<typeof previousSchema>;

/** @throws InvalidInputError naming the field */
export function readPreviousResult(value: unknown): PreviousResult | undefined {
  if (value === undefined || value === null) return undefined;
  return validate(previousSchema, value, 'config.prevResult');
}

/** The result of ADD (specification 1.1.0, section "ADD Success"): what earlier plugins made, then what this one made. */
export function buildResult(
  version: CniVersion,
  attachment: Attachment,
  dns: Dns | undefined,
  previous: PreviousResult | undefined,
): Record<string, unknown> {
  const interfaces: Record<string, unknown>[] = [...(previous?.interfaces ?? [])];
  const mtu = atLeast(version, '1.1.0') ? { mtu: attachment.mtu } : {};
  interfaces.push({ name: attachment.hostInterface, mac: attachment.hostMac, ...mtu });
  const index = interfaces.length;
  interfaces.push({
    name: attachment.interfaceName,
    mac: attachment.mac,
    ...mtu,
    sandbox: attachment.namespacePath,
  });
  const ips: Record<string, unknown>[] = [...(previous?.ips ?? [])];
  for (const { address, prefix, gateway } of attachment.addresses) {
    ips.push({
      ...(atLeast(version, '1.0.0') ? {} : { version: `${parseIp(address)?.family}` }),
      address: `${address}/${prefix}`,
      ...(gateway === undefined ? {} : { gateway }),
      interface: index,
    });
  }
  const routes: Record<string, unknown>[] = [...(previous?.routes ?? [])];
  for (const { destination, gateway } of attachment.routes) {
    routes.push({ dst: destination, ...(gateway === undefined ? {} : { gw: gateway }) });
  }
  const names = { ...previous?.dns, ...dns };
  return {
    ...previous,
    cniVersion: version,
    interfaces,
    ips,
    ...(routes.length === 0 ? {} : { routes }),
    ...(Object.keys(names).length === 0 ? {} : { dns: names }),
  };
}

/** What a result says of an interface: plugins later in the chain say there what they have changed. */
export function readListed(previous: PreviousResult, interfaceName: string): ListedAttachment {
  const { mac, mtu } = inSandbox(previous, interfaceName) ?? {};
  return {
    mac: mac ? canonicalMac(mac) : undefined,
    mtu: mtu || undefined,
    routes: (previous.routes ?? []).map(({ dst, gw }) => ({
      destination: canonicalCidr(dst),
      gateway: canonicalIp(gw),
    })),
  };
}

function inSandbox(previous: PreviousResult, interfaceName: string) {
  return previous.interfaces?.find((one) => one.name === interfaceName && Boolean(one.sandbox));
}

/** What is no address stays as it is: it equals none then. */
function canonicalMac(text: string): string {
  const mac = parseMac(text);
  return mac === undefined ? text : formatMac(mac);
}

function canonicalCidr(text: string): string {
  const cidr = parseCidr(text);
  return cidr === undefined ? text : formatCidr(cidr);
}

function canonicalIp(text: string | null | undefined): string | undefined {
  const ip = text ? parseIp(text) : undefined;
  return ip === undefined ? text || undefined : formatIp(ip);
}

/** What a result lacks of an attachment, or undefined. Plugins later in the chain may have added to the result. */
export function resultDifference(previous: PreviousResult, attachment: Attachment): string | undefined {
  if (inSandbox(previous, attachment.interfaceName) === undefined) {
    return `prevResult.interfaces does not have ${attachment.interfaceName}`;
  }
  const listed = (previous.ips ?? []).map((ip) => ip.address);
  for (const { address, prefix } of attachment.addresses) {
    if (!listed.includes(`${address}/${prefix}`)) return `prevResult.ips does not have ${address}/${prefix}`;
  }
  return undefined;
}
