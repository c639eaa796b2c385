import test from 'ava';
import { drawLine, type TreeOptions, treeLines } from '../../../src/nsdb/operations/draw-tree.js';
import { embedded } from './servers.js';

async function draw(options: TreeOptions, data = false): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of treeLines(options)) lines.push(drawLine(line, data));
  return lines;
}

test('a tree is drawn, with counts and sizes, and its sharded folders in one line', async (t) => {
  const store = (await embedded(t)).store();
  for (const path of ['/top/a/b', '/top/a/c/d', '/top/ports/00/x', '/top/ports/00/y', '/top/ports/ff/z', '/top/empty'])
    await store.ensure(path);
  await store.set('/top/a/c', Buffer.from('{"a":1}\n\u001b[31m\u202e'));
  await store.create('/top/a/e', Buffer.alloc(0), { ephemeral: true });
  t.deepEqual(await draw({ store, root: '/top', all: false }), [
    '/top (3 children)',
    '├── a (3 children)',
    '│   ├── b',
    '│   ├── c (1 child, 16 bytes)',
    '│   │   └── d',
    `│   └── e (ephemeral, session ${store.sessionId})`,
    '├── empty',
    '└── ports (2 children)',
    '    └── … 3 nodes in 2 shards',
  ]);
  t.deepEqual(await draw({ store, root: '/top/ports', all: true }), [
    '/top/ports (2 children)',
    '├── 00 (2 children)',
    '│   ├── x',
    '│   └── y',
    '└── ff (1 child)',
    '    └── z',
  ]);
  t.deepEqual(await draw({ store, root: '/top/a', all: false, depth: 0 }), ['/top/a (3 children)']);
  t.deepEqual(await draw({ store, root: '/top/a/c', all: false, depth: 0 }, true), [
    '/top/a/c (1 child, 16 bytes) {"a":1}··[31m·',
  ]);
  t.deepEqual(await draw({ store, root: '/none', all: false }), []);
});

test('of a large folder only some children are read and drawn', async (t) => {
  const store = (await embedded(t)).store();
  await store.ensure('/many');
  await Promise.all(Array.from({ length: 120 }, (_, i) => store.create(`/many/child-${i}`, Buffer.alloc(0))));
  const before = store.metrics.requests;
  const lines = await draw({ store, root: '/many', all: false });
  t.is(lines.length, 52);
  t.is(lines.at(-1), '└── … 70 more nodes');
  t.is(store.metrics.requests - before, 52);
  t.is((await draw({ store, root: '/many', all: true })).length, 121);
});
