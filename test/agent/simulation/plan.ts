import { randomUUID } from 'node:crypto';
import type { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { formatIpv4, formatMac } from '../../../src/packet/address.js';
import type { Rule } from '../../../src/topology/chains.js';
import { positionsAfter } from '../../../src/topology/position.js';
import type { Port } from '../../../src/topology/types.js';
import type { Dice } from '../../dice.js';
import type { Machine, Segment } from './machine.js';

/** The service that the router has for machines of segment 1: what is sent there goes to a machine of segment 2. */
export const SERVICE = { ip: 0x0a09_0909, port: 80 };
/** The port of that machine, and the address that it sees. */
export const SERVER_PORT = 8080;
export const OUTER_IP = 0x0a09_0908;

/** What the NSDB says when everything is at rest. */
export interface Truth {
  readonly ports: ReadonlyMap<string, Port>;
  /** Addresses of which packets are dropped by the chain for that. */
  readonly blocked: ReadonlySet<string>;
  /** Segments that the router reaches. */
  readonly routed: ReadonlySet<number>;
  /** The address behind the service. */
  readonly server: string;
}

/**
 * The virtual network: bridges, of which a router joins the first two and the third stands alone, filters for ports of machines,
 * and a service of the router's, with both addresses translated.
 */
export class Plan {
  readonly segments: Segment[] = [];
  private readonly routerId: string;
  private readonly routerPorts = new Map<number, string>();
  /** Drops what opens connections. */
  private readonly answersOnlyId: string;
  /** Drops what comes from some addresses. */
  private readonly blockingId: string;
  private readonly translateInId: string;
  private readonly translateOutId: string;
  private readonly dnatId: string;

  constructor(private readonly repository: TopologyRepository) {
    const ids = Array.from({ length: 6 }, () => randomUUID());
    [this.routerId, this.answersOnlyId, this.blockingId, this.translateInId, this.translateOutId, this.dnatId] = ids;
  }

  async build(): Promise<void> {
    const { repository, routerId } = this;
    await this.buildChains();
    await repository.create('router', {
      id: routerId,
      name: 'router',
      inboundFilterId: this.translateInId,
      outboundFilterId: this.translateOutId,
    });
    for (const number of [1, 2, 3]) {
      const { id: bridgeId } = await repository.create('bridge', { id: randomUUID(), name: `bridge-${number}` });
      const gatewayMac = 0x0a00_0000_0000 + number;
      const hasRouter = number !== 3;
      this.segments.push({ number, bridgeId, hasRouter, gatewayMac });
      if (!hasRouter) continue;
      const port = { id: randomUUID(), routerId, mac: formatMac(gatewayMac), subnets: [`10.${number}.0.254/16`] };
      await repository.create('port', port);
      await repository.create('port', { id: randomUUID(), bridgeId, peerId: port.id });
      const destination = `10.${number}.0.0/16`;
      const route = { id: randomUUID(), routerId, type: 'normal', destination, nextHopPortId: port.id } as const;
      await repository.create('route', route);
      this.routerPorts.set(number, port.id);
    }
  }

  private async buildChains(): Promise<void> {
    const { repository } = this;
    for (const id of [this.answersOnlyId, this.blockingId, this.translateInId, this.translateOutId]) {
      await repository.create('chain', { id, name: 'chain' });
    }
    const [first, second] = positionsAfter(undefined, 2);
    const condition = { matchForwardFlow: true };
    const rule = { id: randomUUID(), position: first } as const;
    await repository.create('rule', { ...rule, chainId: this.answersOnlyId, type: 'drop', condition });
    await repository.create('rule', {
      id: this.dnatId,
      position: first,
      chainId: this.translateInId,
      type: 'dnat',
      targets: [target('10.2.0.250', SERVER_PORT)],
      action: 'accept',
      condition: { destination: `${formatIpv4(SERVICE.ip)}/32` },
    });
    await repository.create('rule', {
      id: randomUUID(),
      position: second,
      chainId: this.translateInId,
      type: 'reverse-snat',
      action: 'accept',
      condition: { destination: `${formatIpv4(OUTER_IP)}/32` },
    });
    await repository.create('rule', {
      id: randomUUID(),
      position: first,
      chainId: this.translateOutId,
      type: 'snat',
      targets: [{ start: formatIpv4(OUTER_IP), end: formatIpv4(OUTER_IP), ports: { start: 1024, end: 65_535 } }],
      action: 'accept',
      condition: { source: '10.1.0.0/16', destinationPorts: { start: SERVER_PORT, end: SERVER_PORT } },
    });
  }

  /** One change, by chance; returns what it is, and what makes it. */
  change(dice: Dice, machines: readonly Machine[]): [what: string, make: () => Promise<unknown>] {
    const { repository } = this;
    const machine = dice.pick(machines.filter(({ isKnown }) => isKnown))!;
    const ip = formatIpv4(machine.ip);
    switch (dice.below(6)) {
      case 0:
      case 1: {
        const field = dice.chance(50) ? 'inboundFilterId' : 'outboundFilterId';
        const chain = dice.pick([undefined, this.answersOnlyId, this.blockingId]);
        const name = chain === undefined ? 'none' : chain === this.blockingId ? 'blocking' : 'answers only';
        const modify = () => repository.modify('port', machine.id, (port) => ({ ...port, [field]: chain }));
        return [`${field} of ${machine.interfaceName} is ${name}`, modify];
      }
      case 2: {
        const [position] = positionsAfter(undefined, 1);
        const rule = { chainId: this.blockingId, position, type: 'drop', condition: { source: `${ip}/32` } } as const;
        // Identifiers follow from the seed only where an event runs.
        return [`${ip} is blocked`, () => repository.create('rule', { id: randomUUID(), ...rule })];
      }
      case 3:
        return [
          'somebody is blocked no more',
          async () => {
            const [id] = (await repository.holders('rule', 'chainId', this.blockingId)).sort();
            if (id !== undefined) await repository.delete('rule', id);
          },
        ];
      case 4: {
        const number = dice.pick([...this.routerPorts.keys()])!;
        const adminStateUp = dice.chance(70);
        const change = () =>
          repository.modify('port', this.routerPorts.get(number)!, (port) => ({ ...port, adminStateUp }));
        return [`the router's port ${number} is ${adminStateUp ? 'up' : 'down'}`, change];
      }
      default: {
        const server = dice.pick(machines.filter(({ segment }) => segment.number === 2))!;
        const targets = [target(formatIpv4(server.ip), SERVER_PORT)];
        const change = () => repository.modify('rule', this.dnatId, (rule) => ({ ...rule, targets }) as Rule);
        return [`${server.interfaceName} serves`, change];
      }
    }
  }

  async read(machines: readonly Machine[]): Promise<Truth> {
    const { repository } = this;
    const ports = new Map<string, Port>();
    for (const { id } of machines) {
      const port = await repository.get('port', id);
      if (port !== undefined) ports.set(id, port.object);
    }
    const blocked = new Set<string>();
    for (const id of await repository.holders('rule', 'chainId', this.blockingId)) {
      const rule = await repository.get('rule', id);
      if (rule?.object.condition.source !== undefined) blocked.add(rule.object.condition.source.replace('/32', ''));
    }
    const routed = new Set<number>();
    for (const [number, id] of this.routerPorts) {
      if ((await repository.get('port', id))!.object.adminStateUp) routed.add(number);
    }
    const dnat = (await repository.get('rule', this.dnatId))!.object as Rule & { type: 'dnat' };
    return { ports, blocked, routed, server: dnat.targets[0].start };
  }

  /** Whether a filter of a port lets a packet pass that comes from this address, and opens a connection or belongs to one. */
  passes(truth: Truth, machine: Machine, way: 'in' | 'out', source: number, opens: boolean): boolean {
    const port = truth.ports.get(machine.id)!;
    const filter = way === 'in' ? port.inboundFilterId : port.outboundFilterId;
    if (filter === this.answersOnlyId) return !opens;
    return filter !== this.blockingId || !truth.blocked.has(formatIpv4(source));
  }

  async remove(): Promise<void> {
    const { repository } = this;
    await repository.delete('router', this.routerId);
    for (const { bridgeId } of this.segments) await repository.delete('bridge', bridgeId);
    for (const id of [this.answersOnlyId, this.blockingId, this.translateInId, this.translateOutId]) {
      await repository.delete('chain', id);
    }
  }
}

function target(address: string, port: number) {
  return { start: address, end: address, ports: { start: port, end: port } };
}
