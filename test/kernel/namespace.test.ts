import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { newNamespace } from './namespaces.js';

function here(): string {
  return readlinkSync('/proc/thread-self/ns/net');
}

test('code runs in the namespace, and only that code', (t) => {
  const home = here();
  const namespace = newNamespace(t);
  const inside = namespace.run(here);
  t.not(inside, home);
  t.is(here(), home);
  t.true(namespace.identity.endsWith(`:${/\d+/.exec(inside)?.[0]}`));
});

test('namespaces within namespaces are left in order, also when something is thrown', (t) => {
  const home = here();
  const [outer, inner] = [newNamespace(t), newNamespace(t)];
  const thrown = new Error('thrown inside');
  outer.run(() => {
    const middle = here();
    t.is(
      t.throws(() =>
        inner.run(() =>
          inner.run(() => {
            throw thrown;
          }),
        ),
      ),
      thrown,
    );
    t.is(here(), middle);
  });
  t.is(here(), home);
});

test('a promise is refused: what it awaits would be done elsewhere', async (t) => {
  const namespace = newNamespace(t);
  t.throws(() => namespace.run(async () => {}), { code: 'MN_INVALID_INPUT' });
});

test('identity tells namespaces apart, whatever the path', (t) => {
  const [a, b] = [newNamespace(t), newNamespace(t)];
  const again = Namespace.open(a.path);
  t.teardown(() => again.close());
  t.is(again.identity, a.identity);
  t.not(a.identity, b.identity);
  const current = Namespace.current();
  t.teardown(() => current.close());
  const init = Namespace.open(`/proc/${process.pid}/ns/net`);
  t.teardown(() => init.close());
  t.is(current.identity, init.identity);
});

test('paths that lead to something else are refused, and leave nothing open', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mn-namespace-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'file');
  writeFileSync(file, '');
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  t.throws(() => Namespace.open(join(folder, 'missing')), { code: 'MN_NAMESPACE', message: /missing: not found/ });
  for (const path of [file, fifo, folder, '/dev/null', '/proc/self/ns/uts']) {
    t.throws(() => Namespace.open(path), { code: 'MN_NAMESPACE', message: /not a network namespace/ }, path);
  }
  const open = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  t.false(open.includes(file) || open.includes(fifo) || open.includes(folder));
});

test('a closed namespace says so', (t) => {
  const namespace = newNamespace(t);
  const other = Namespace.open(namespace.path);
  other.close();
  other.close();
  t.throws(() => other.run(() => 1), { code: 'MN_CLOSED' });
  t.is(
    namespace.run(() => 1),
    1,
  );
});
