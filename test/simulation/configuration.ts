import { parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import type { DhcpHostFact, DhcpSubnetFact, DhcpV6HostFact, DhcpV6SubnetFact } from '../../src/simulation/fact.js';
import { fact, type TestFact } from './world.js';

/** 10.0.0.0/24 with the gateway 10.0.0.1; machines that nobody has added are known to be absent. */
export function subnet(
  fields: Partial<DhcpSubnetFact> = {},
): DhcpSubnetFact & { hosts: Map<number, TestFact<DhcpHostFact>> } {
  const hosts = new Map<number, TestFact<DhcpHostFact>>();
  return {
    id: 'subnet',
    enabled: true,
    address: parseIpv4('10.0.0.0')!,
    prefix: 24,
    serverAddress: undefined,
    gateway: parseIpv4('10.0.0.1')!,
    dnsServers: [],
    domainName: undefined,
    leaseSeconds: 86_400,
    mtu: undefined,
    routes: [],
    hosts,
    host: (mac) => hosts.get(mac) ?? fact<DhcpHostFact>(`host ${mac}`, null),
    ...fields,
  };
}

/** fd00::/64, stateful; machines that nobody has added are known to be absent. */
export function subnetV6(
  fields: Partial<DhcpV6SubnetFact> = {},
): DhcpV6SubnetFact & { hosts: Map<string, TestFact<DhcpV6HostFact>> } {
  const hosts = new Map<string, TestFact<DhcpV6HostFact>>();
  return {
    id: 'subnet6',
    enabled: true,
    address: parseIpv6('fd00::')!,
    prefix: 64,
    addressing: 'stateful',
    dnsServers: [],
    domainSearch: [],
    preferredLifetime: 43_200,
    validLifetime: 86_400,
    gateway: undefined,
    mtu: undefined,
    advertisement: undefined,
    hosts,
    host: (duid) => hosts.get(duid) ?? fact<DhcpV6HostFact>(`host ${duid}`, null),
    ...fields,
  };
}
