import type { SimulationContext } from './context.js';
import type { Fact, TunnelPath } from './fact.js';

const TUNNEL_TTL = 64;

/** A copy to another host, which knows by the tunnel key what to do with it. @returns whether there is a way to that host */
export function outputToHost(context: SimulationContext, tunnel: Fact<TunnelPath>, tunnelKey: number): boolean {
  const path = context.read(tunnel);
  if (path === null) return false;
  if (path === undefined) return true;
  const id = tunnelKey | context.tracking.tunnelKeyBits();
  context.output([
    { type: 'set-tunnel', tunnel: { id, src: path.src, dst: path.dst, tos: 0, ttl: TUNNEL_TTL, flags: 0 } },
    { type: 'output', port: path.output },
  ]);
  return true;
}
