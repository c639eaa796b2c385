// Opens and closes all there is, many times, in the namespace whose path is the argument. Prints what descriptors are open
// after the first time and after the last.
import { strict as assert } from 'node:assert';
import { readdirSync, readlinkSync } from 'node:fs';
import { Links } from '../../src/datapath/link/links.js';
import { LinkMonitor } from '../../src/datapath/link/monitor.js';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { LinkRequests } from '../../src/datapath/link/requests.js';

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
await new Promise((resolve) => setImmediate(resolve));
console.log(descriptors());
for (let i = 0; i < 30; i++) {
  await round();
}
await new Promise((resolve) => setImmediate(resolve));
console.log(descriptors());
