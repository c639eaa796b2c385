import type { Fact, NatOwner, PortRange, SourceNatFact, TunnelPath } from '../../src/simulation/fact.js';
import { NAT_BLOCK_BITS } from '../../src/simulation/fact.js';
import { fact } from './world.js';

/** Source ports that each host translates to. */
const PORTS_OF_HOST = 1024;
const FIRST_PORT = 0x8000;

/** The ports of every address that a host has leased: a part of their upper half. */
export function leasedPorts(host: number): PortRange {
  const first = FIRST_PORT + PORTS_OF_HOST * host;
  return { first, last: first + PORTS_OF_HOST - 1 };
}

/**
 * How host `host` of two translates sources for a device, by which all know which ports are whose.
 * @param tunnel to the other host, where the device is known by `tunnelKey`
 */
export function leasedSourceNat(
  zone: number,
  host: number,
  tunnel: Fact<TunnelPath>,
  tunnelKey: number,
): SourceNatFact {
  const ports = fact<readonly PortRange[]>('ports', [leasedPorts(host)]);
  const local = fact<NatOwner>('this host', { type: 'local' });
  const other = fact<NatOwner>('the other host', { type: 'remote', tunnel, tunnelKey });
  const nobody = fact<NatOwner>('nobody', null);
  const owner = (block: number) => {
    const of = ((block << (16 - NAT_BLOCK_BITS)) - FIRST_PORT) / PORTS_OF_HOST;
    if (of < 0 || of >= 2) return nobody;
    return Math.floor(of) === host ? local : other;
  };
  return {
    zone: fact(`zone ${zone}`, zone),
    ports: () => ports,
    owner: (_words, _offset, _length, block) => (block === undefined ? local : owner(block)),
  };
}
