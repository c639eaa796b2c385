import { formatIpv6, type Ipv6 } from '../packet/address.js';
import type { DhcpV6SubnetFact, Fact } from './fact.js';

/** The address that answers to DHCP, DHCPv6 and router solicitations come from on every host. MidoNet's value. */
export const CONFIGURATION_SERVER_MAC = 0x02a8_9cde_3927;

/** A lifetime in seconds (RFC 4861 section 4.6.2, RFC 8415 section 7.7). */
export const FOR_EVER = 0xffff_ffff;

/** Why a message is not answered. Counted by the agent under these names. */
export type NoAnswer =
  | 'malformed'
  /** Nothing is set aside for it in the subnets of its bridge. */
  | 'unknown-machine'
  /** No subnet of the bridge is advertised. */
  | 'not-advertised'
  /** A relay sent it on, which is not what a machine on the bridge has to do. */
  | 'relayed'
  /** It is for another server. */
  | 'other-server'
  /** The machine found its address in use. */
  | 'declined'
  | 'released'
  /** The server has no answer to messages of that type. */
  | 'not-a-request';

/** What came of a message of a machine that wants to be configured. */
export type Answer =
  /** Send this frame out of the port that the message came in at. */
  | {
      readonly type: 'frame';
      readonly frame: Uint8Array;
      /** The facts that will be asked for again when the machine renews what it was given, at the latest in so many seconds. */
      readonly renewal?: { readonly facts: readonly Fact<unknown>[]; readonly seconds: number };
    }
  | { readonly type: 'none'; readonly reason: NoAnswer }
  /** Some facts are not in hand: get these, then try again. */
  | { readonly type: 'wait'; readonly missing: readonly Fact<unknown>[] };

export function noAnswer(reason: NoAnswer): Answer {
  return { type: 'none', reason };
}

/** What the machines of several subnets are told of names, each once. */
export function nameService(subnets: readonly DhcpV6SubnetFact[]): { dnsServers: Ipv6[]; domainSearch: string[] } {
  const servers = new Map(subnets.flatMap(({ dnsServers }) => dnsServers.map((one) => [formatIpv6(one), one])));
  const domains = new Set(subnets.flatMap(({ domainSearch }) => domainSearch));
  return { dnsServers: [...servers.values()], domainSearch: [...domains] };
}
