import type { Action } from '../flow/action.js';
import type { SimulationContext } from './context.js';
import type { Fact, PortFact, RemoteHost, TunnelPath } from './fact.js';

const TUNNEL_TTL = 64;

/** The port at which a packet enters a device; undefined if it does not get in, or that is not known yet. */
export function ingressPort(context: SimulationContext, fact: Fact<PortFact>): PortFact | undefined {
  const port = context.read(fact);
  if (port === null) context.drop('no-port');
  else if (port?.adminStateUp === false) context.drop('port-down');
  else return port;
  return undefined;
}

/** A packet leaves a device at a port: into the device behind it, or out of the virtual network. */
export function egressPort(context: SimulationContext, fact: Fact<PortFact>): void {
  const port = context.read(fact);
  if (port === undefined) return;
  if (port === null) return context.drop('no-port');
  if (!port.adminStateUp) return context.drop('port-down');
  if (port.peer !== undefined) return context.enter(port.peer);
  if (port.location === null) return context.drop('unbound-port');
  if (port.location.type === 'local') {
    const output = context.read(port.location.output);
    if (output === null) context.drop('unbound-port');
    else if (output === context.key.inPort) context.drop('same-port');
    else if (output !== undefined) context.output([{ type: 'output', port: output }]);
    return;
  }
  const path = context.read(port.location.tunnel);
  if (path === null) context.drop('no-tunnel');
  else if (path !== undefined) context.output(tunnelActions(path, port.location.tunnelKey));
}

/**
 * A copy out of every datapath port in `outputs` but the one it came in at, and one to every host. Copies that would make
 * the action list longer than the datapath takes are left out and counted.
 */
export function flood(context: SimulationContext, outputs: readonly number[], hosts: readonly RemoteHost[]): void {
  for (const port of outputs) if (port !== context.key.inPort) context.output([{ type: 'output', port }]);
  for (const host of hosts) {
    const path = context.read(host.tunnel);
    if (path !== undefined && path !== null) context.output(tunnelActions(path, host.floodKey));
  }
}

function tunnelActions(path: TunnelPath, tunnelKey: number): Action[] {
  return [
    {
      type: 'set-tunnel',
      tunnel: { id: tunnelKey, src: path.src, dst: path.dst, tos: 0, ttl: TUNNEL_TTL, flags: 0 },
    },
    { type: 'output', port: path.output },
  ];
}
