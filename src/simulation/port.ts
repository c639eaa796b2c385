import { bridgeInput } from './bridge.js';
import type { SimulationContext } from './context.js';
import type { Fact, PortFact, RemoteHost, TunnelPath } from './fact.js';

const TUNNEL_TTL = 64;

/** A packet enters the virtual network at a port. */
export function ingressPort(context: SimulationContext, fact: Fact<PortFact>): void {
  const port = context.read(fact);
  if (port === undefined) return;
  if (port === null) return context.drop('no-port');
  if (!port.adminStateUp) return context.drop('port-down');
  bridgeInput(context, port);
}

/** A packet leaves the virtual network at a port. */
export function egressPort(context: SimulationContext, fact: Fact<PortFact>): void {
  const port = context.read(fact);
  if (port === undefined) return;
  if (port === null) return context.drop('no-port');
  if (!port.adminStateUp) return context.drop('port-down');
  if (port.location === null) return context.drop('unbound-port');
  if (port.location.type === 'local') {
    const output = context.read(port.location.output);
    if (output === null) context.drop('unbound-port');
    else if (output === context.key.inPort) context.drop('same-port');
    else if (output !== undefined) context.actions.push({ type: 'output', port: output });
    return;
  }
  const path = context.read(port.location.tunnel);
  if (path === null) context.drop('no-tunnel');
  else if (path !== undefined) pushTunnel(context, path, port.location.tunnelKey);
}

/**
 * A copy out of every datapath port in `outputs` but the one it came in at, and one to every host. Copies to hosts that
 * would make the action list longer than the datapath takes are left out and counted.
 */
export function flood(context: SimulationContext, outputs: readonly number[], hosts: readonly RemoteHost[]): void {
  for (const port of outputs) if (port !== context.key.inPort) context.actions.push({ type: 'output', port });
  let length = context.limits.actionsLength(context.actions);
  let left = 0;
  for (const host of hosts) {
    const path = context.read(host.tunnel);
    if (path === undefined || path === null) continue;
    const before = context.actions.length;
    pushTunnel(context, path, host.floodKey);
    length += context.limits.actionsLength(context.actions.slice(before));
    if (length <= context.limits.maxActionsLength) continue;
    context.actions.length = before;
    left++;
  }
  context.cut(left);
}

function pushTunnel(context: SimulationContext, path: TunnelPath, tunnelKey: number): void {
  context.actions.push({
    type: 'set-tunnel',
    tunnel: { id: tunnelKey, src: path.src, dst: path.dst, tos: 0, ttl: TUNNEL_TTL, flags: 0 },
  });
  context.actions.push({ type: 'output', port: path.output });
}
