// Opens and closes all there is, many times, in the namespace whose path is the argument. Prints what descriptors are open
// after the first time and after the last.
import { strict as assert } from 'node:assert';
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Links } from '../../src/datapath/link/links.js';
import { LinkMonitor } from '../../src/datapath/link/monitor.js';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { LinkRequests } from '../../src/datapath/link/requests.js';

/** What is closed leaves its descriptor to another thread, which closes it in time of its own. */
const SETTLED_MS = 100;
const PATIENCE_MS = 10_000;

async function round(): Promise<void> {
  const namespace = Namespace.open(process.argv[2]);
  const links = new Links(namespace);
  await links.list();
  await links.apply(new LinkRequests().addVeth({ name: 'a0' }, { name: 'b0' }));
  await links.delete('a0');
  const monitor = await LinkMonitor.start(
    { appeared: () => {}, changed: () => {}, vanished: () => {}, failed: () => {} },
    namespace,
  );
  monitor.close();
  monitor.close();
  links.close();
  links.close();
  await assert.rejects(links.list(), { code: 'MN_CLOSED' });
  await assert.rejects(links.get('lo'), { code: 'MN_CLOSED' });
  namespace.run(() => {});
  assert.throws(() => namespace.run(() => assert.fail()), assert.AssertionError);
  namespace.close();
}

/** Kinds of descriptors with their numbers: `net:[…]` and `socket:[…]` count as `net` and `socket`. */
function descriptors(): string {
  const counts: Record<string, number> = {};
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const kind = readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[.*/, '');
      counts[kind] = (counts[kind] ?? 0) + 1;
    } catch {
      // The descriptor of the listing itself is gone by now.
    }
  }
  return JSON.stringify(counts);
}

await round();
await delay(SETTLED_MS);
const before = descriptors();
for (let i = 0; i < 30; i++) {
  await round();
}
const end = performance.now() + PATIENCE_MS;
while (descriptors() !== before && performance.now() < end) await delay(SETTLED_MS);
console.log(before);
console.log(descriptors());
