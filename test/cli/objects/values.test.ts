import test from 'ava';
import { fieldNamed, fieldsOf, type Shape } from '../../../src/cli/objects/fields.js';
import { nearest } from '../../../src/cli/objects/nearest.js';
import { formatValue, readValue } from '../../../src/cli/objects/values.js';
import { KINDS, type Kind } from '../../../src/topology/types.js';

const shapeOf = (kind: Kind, word: string) => fieldNamed(fieldsOf(kind), word)!.shape;
/** Identifiers that tell what was asked for. */
const resolve = async (kind: Kind, text: string) => `${kind}:${text}`;
const read = (shape: Shape, written: unknown) => readValue(shape, written, 'field', resolve);
const condition = fieldsOf('rule').find(({ name }) => name === 'condition')!.shape as Shape & { type: 'object' };
const inCondition = (word: string) => fieldNamed(condition.fields, word)!.shape;

test('words become what the API takes', async (t) => {
  t.is(await read(shapeOf('bridge', 'admin-state-up'), 'no'), false);
  t.is(await read(shapeOf('port', 'bridge'), 'web'), 'bridge:web');
  t.deepEqual(await read(shapeOf('port', 'inboundMirrors'), 'a, b'), ['mirror:a', 'mirror:b']);
  t.deepEqual(await read(shapeOf('port', 'addresses'), ''), []);
  t.deepEqual(await read(shapeOf('port', 'binding'), 'host=node-1,interface-name=eth1'), {
    hostId: 'host:node-1',
    interfaceName: 'eth1',
  });
  t.is(await read(inCondition('protocol'), 'tcp'), 6);
  t.is(await read(inCondition('ether-type'), 'ipv6'), 0x86dd);
  t.is(await read(inCondition('ether-type'), '0x88cc'), 0x88cc);
  t.deepEqual(await read(inCondition('destination-ports'), '80'), { start: 80, end: 80 });
  t.deepEqual(await read(inCondition('destination-ports'), '1024-65535'), { start: 1024, end: 65_535 });
  t.deepEqual(await read(inCondition('inverted'), 'source-address-group,source'), ['sourceAddressGroupId', 'source']);
  t.deepEqual(await read(shapeOf('qos-policy', 'rules'), ['type=dscp,mark=10']), [{ type: 'dscp', mark: 10 }]);
  t.deepEqual(await read(shapeOf('chain', 'metadata'), 'a=b,c=d'), { a: 'b', c: 'd' });
  t.deepEqual(
    await read(shapeOf('rule', 'targets'), ['203.0.113.5:1024-65535', '[fd00::5]:1', '10.0.0.1-10.0.0.9', 'fd00::6']),
    [
      { start: '203.0.113.5', end: '203.0.113.5', ports: { start: 1024, end: 65_535 } },
      { start: 'fd00::5', end: 'fd00::5', ports: { start: 1, end: 1 } },
      { start: '10.0.0.1', end: '10.0.0.9' },
      { start: 'fd00::6', end: 'fd00::6' },
    ],
  );
});

test('what a field cannot hold is refused with the field and the value', async (t) => {
  const refused = async (shape: Shape, written: unknown, message: RegExp) => {
    const error = await t.throwsAsync(read(shape, written), { code: 'MN_INVALID_INPUT' });
    t.regex(error.message, message);
  };
  await refused(shapeOf('bridge', 'adminStateUp'), 'perhaps', /^field: expected true or false, got "perhaps"$/);
  await refused(shapeOf('router', 'asNumber'), 'many', /expected a whole number, got "many"/);
  await refused(inCondition('protocol'), 'tpc', /or one of .*tcp/);
  await refused(shapeOf('rule', 'type'), 'allow', /expected one of accept, drop/);
  await refused(shapeOf('port', 'binding'), 'host=a,iface=b', /field\.iface: expected one of host, interfaceName/);
  await refused(shapeOf('port', 'binding'), 'eth1', /FIELD=VALUE/);
  await refused(shapeOf('port', 'binding'), '{"host":', /expected JSON/);
  await refused(inCondition('sourcePorts'), '1-2-3', /PORT-PORT/);
});

test('a value that is shown can be read again', async (t) => {
  const nameOf = (_: Kind, id: string) => id.split(':')[1];
  const again = async (shape: Shape, written: string) => {
    const value = await read(shape, written);
    t.is(formatValue(shape, value, nameOf), written);
  };
  await again(shapeOf('port', 'binding'), 'host=node-1,interface-name=eth1');
  await again(inCondition('protocol'), 'udp');
  await again(inCondition('in-ports'), 'a,b');
  await again(inCondition('source-ports'), '1-3');
  await again(condition, 'protocol=tcp,source=10.0.0.0/8,destination-ports=80');
  await again(shapeOf('rule', 'targets'), '203.0.113.5:1024-65535');
});

test('each kind has fields, and no two of one kind have the same word', (t) => {
  for (const kind of KINDS) {
    const words = fieldsOf(kind).map(({ word }) => word);
    t.is(new Set(words).size, words.length, kind);
    t.true(words.includes('id'), kind);
  }
  t.deepEqual(
    fieldsOf('rule').flatMap(({ name, required }) => (required ? [name] : [])),
    ['id', 'chainId', 'position', 'type'],
  );
});

test('the word that somebody meant is found', (t) => {
  t.is(nearest('brige', ['bridge', 'router', 'port']), 'bridge');
  t.is(nearest('wbe', ['web', 'db']), 'web');
  t.is(nearest('totally-different', ['bridge', 'router']), undefined);
});
