import type { Datapath, FlowOperation } from '../../../src/datapath/datapath.js';
import type { MemoryDatapath } from '../../../src/datapath/memory/datapath.js';
import type { Events, VirtualProcess } from './events.js';

/** Milliseconds that what the datapath says is on its way at most. */
const LATENCY_MS = 1;

/** Which operations the datapath does not carry out, without saying so: a fault that must be found. */
export type Ignores = (operation: FlowOperation) => boolean;

/**
 * A process's driver of a datapath in memory: what is asked of the datapath happens at once; what it has to say comes later, in order,
 * and only as long as the process lives.
 */
export function virtualDatapath(
  events: Events,
  process: VirtualProcess,
  driver: MemoryDatapath,
  ignores: Ignores,
): Datapath {
  let lastArrival = 0;
  const latency = () => (LATENCY_MS * events.dice.below(1000)) / 1000;
  const tell = (news: () => void) => {
    lastArrival = Math.max(lastArrival, events.now + latency());
    events.scheduleAt(process, lastArrival, news);
  };
  const later = () => new Promise<void>((resolve) => events.schedule(process, latency(), resolve));
  const own: Pick<Datapath, 'start' | 'submit' | 'watchConnections'> = {
    start: (handler) =>
      driver.start({
        upcalls: (batch) => tell(() => handler.upcalls(batch)),
        portsChanged: () => tell(() => handler.portsChanged()),
        upcallsLost: (count) => tell(() => handler.upcallsLost(count)),
      }),
    submit: (operations, done) => {
      for (const { type, ...operation } of operations) {
        events.trace(`${process.name} ${type} ${'id' in operation ? operation.id : 'a packet'}`);
      }
      const heeded = operations.filter((operation) => !ignores(operation));
      driver.submit(heeded, done && ((errors) => tell(() => done(errors))));
    },
    watchConnections: (listener) =>
      driver.watchConnections({
        concerns: (zone) => listener.concerns(zone),
        events: (batch) => tell(() => listener.events(batch)),
        lost: () => tell(() => listener.lost()),
      }),
  };
  return new Proxy<Datapath>(driver, {
    get: (_, name) => {
      if (Object.hasOwn(own, name)) return Reflect.get(own, name);
      const value: unknown = Reflect.get(driver, name);
      if (typeof value !== 'function') return value;
      return (...parameters: unknown[]) => {
        const result: unknown = Reflect.apply(value, driver, parameters);
        return result instanceof Promise ? result.finally(later) : result;
      };
    },
  });
}
