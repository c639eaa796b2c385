import test, { type ExecutionContext } from 'ava';
import { EXAMPLES, exampleOf } from '../../../src/api/description/examples.js';
import { fieldsOf, hasName, kebab } from '../../../src/cli/objects/fields.js';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { APART, CONDITION } from '../../../src/cli/objects/objects.js';
import { formatValue } from '../../../src/cli/objects/values.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { KINDS, type Kind, SCHEMAS } from '../../../src/topology/types.js';
import { ApacheZookeeper } from '../../nsdb/apache-zookeeper.js';
import { TestCli } from '../cli-test.js';

/** The options with which `create` makes the object. */
function optionsFor(kind: Kind, object: AnyObject): string[] {
  return fieldsOf(kind).flatMap(({ name, word, shape }) => {
    const value = object[name];
    if (value === undefined || APART.has(name)) return [];
    const option = `--${kebab(word)}`;
    const text = (one: unknown, of = shape) => formatValue(of, one, (_, id) => id);
    if (name === CONDITION) return text(value) === '' ? [] : ['--set', `${CONDITION}=${JSON.stringify(value)}`];
    if (shape.type === 'list' && shape.of.type === 'object') {
      return (value as unknown[]).flatMap((one) => [option, text(one, shape.of)]);
    }
    return text(value) === '' ? [] : [option, text(value)];
  });
}

const LAST_TO_FIRST = [...KINDS].reverse();

test('every kind of object is made, listed, shown, changed and deleted', async (t) => {
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  await manageAll(t, cli);
});

test('so it is on Apache ZooKeeper', async (t) => {
  const server = await ApacheZookeeper.start();
  const store = new ZookeeperStore({ connect: server.address, sessionTimeout: 10_000 });
  const cli = await TestCli.before(store, async () => {
    await store.close();
    await server.close();
  });
  t.teardown(() => cli.close());
  await manageAll(t, cli);
});

async function manageAll(t: ExecutionContext, cli: TestCli): Promise<void> {
  t.timeout(240_000);
  const made = new Set<string>();
  for (const kind of KINDS) {
    for (const example of exampleOf(kind)) {
      const object = SCHEMAS[example.kind].parse(example.object) as AnyObject;
      if (made.has(object.id)) continue;
      made.add(object.id);
      const name = object.name === undefined ? [] : [object.name];
      const tenant = object.tenantId === undefined ? [] : ['--tenant', object.tenantId as string];
      const options = optionsFor(example.kind, object);
      await cli.midonet(example.kind, 'create', ...name, '--id', object.id, ...tenant, ...options);
      t.deepEqual(await cli.json(example.kind, 'show', object.id), JSON.parse(JSON.stringify(object)), example.kind);
    }
    const { id } = EXAMPLES[kind];
    t.regex(await cli.midonet(kind, 'list'), new RegExp(`^ID .*\n(.*\n)*${id.slice(0, 8)} `), kind);
    t.regex(await cli.midonet(kind, 'list', '-o', 'wide'), new RegExp(`^${id}`, 'm'), kind);
    t.regex(await cli.midonet(kind, 'show', id), new RegExp(`id: +${id}`), kind);
    if (!hasName(kind)) continue;
    await cli.midonet(kind, 'update', id, '--name', `new-${kind}`);
    t.like(await cli.json(kind, 'show', `new-${kind}`), { id, name: `new-${kind}` });
  }
  // What is a part of another goes with it, and what others need stays as long as they need it.
  for (const kind of LAST_TO_FIRST) {
    const { id } = EXAMPLES[kind];
    if ((await cli.api.repository.get(kind, id)) !== undefined) {
      t.regex(await cli.midonet(kind, 'delete', id), new RegExp(`^deleted ${kind} .*${id}`));
    }
    t.is(await cli.api.repository.get(kind, id), undefined, kind);
    t.regex((await cli.run([kind, 'show', id])).error!, /there is no/, kind);
  }
}
