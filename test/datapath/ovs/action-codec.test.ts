import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/datapath/netlink/errors.js';
import { AttributeReader, MessageWriter } from '../../../src/datapath/netlink/message.js';
import { actionsLength, readActions, writeActions } from '../../../src/datapath/ovs/action-codec.js';
import { ActionAttr, KeyAttr } from '../../../src/datapath/ovs/uapi.js';
import { UnsupportedError } from '../../../src/errors.js';
import { type Action, actionsEqual } from '../../../src/flow/action.js';
import { FlowKey, Word } from '../../../src/flow/key.js';
import { actionLists } from './arbitraries.js';

function encode(actions: readonly Action[], pid = 1): Uint8Array {
  const writer = new MessageWriter();
  writeActions(writer, 2, actions, pid);
  return writer.bytes.slice(4, writer.length);
}

function types(bytes: Uint8Array): number[] {
  const reader = new AttributeReader();
  reader.reset(bytes);
  const found: number[] = [];
  while (reader.next()) found.push(reader.type);
  return found;
}

function set(change: (key: FlowKey) => void, seen: (mask: FlowKey) => void): Action {
  const key = new FlowKey();
  const mask = new FlowKey();
  change(key);
  seen(mask);
  return { type: 'set', key, mask };
}

test('actions survive writing and reading', (t) => {
  fc.assert(
    fc.property(actionLists, (actions) => {
      const bytes = encode(actions);
      const back = readActions(bytes, 0, bytes.length);
      t.true(back.complete);
      t.true(actionsEqual(back.actions, actions), JSON.stringify([back.actions, actions]));
    }),
  );
});

test('the length of actions is at least what is sent', (t) => {
  fc.assert(
    fc.property(actionLists, (actions) => {
      t.true(actionsLength(actions) >= encode(actions).length);
    }),
  );
  t.is(actionsLength([{ type: 'output', port: 1 }]), 8);
  t.is(actionsLength([]), 0);
});

test('one set becomes one masked set per header, and comes back as one', (t) => {
  const action = set(
    (key) => {
      key.ethSrc = 0x020000000001;
      key.ethDst = 0x020000000002;
      key.ethType = 0x0800;
      key.nwProto = 17;
      key.ipv4Src = 0x0a000001;
      key.nwTtl = 63;
      key.tpSrc = 5353;
    },
    (mask) => {
      mask.ethSrc = 0xffffffffffff;
      mask.ethDst = 0xffffffffffff;
      mask.ipv4Src = 0xffff_ffff;
      mask.nwTtl = 0xff;
      mask.tpSrc = 0xffff;
    },
  );
  const bytes = encode([action, { type: 'output', port: 2 }]);
  t.deepEqual(types(bytes), [ActionAttr.SET_MASKED, ActionAttr.SET_MASKED, ActionAttr.SET_MASKED, ActionAttr.OUTPUT]);
  const { actions } = readActions(bytes, 0, bytes.length);
  t.is(actions.length, 2);
  t.true(actionsEqual(actions, [action, { type: 'output', port: 2 }]));
});

test('bits outside the mask of a set are sent as zero', (t) => {
  const action = set(
    (key) => {
      key.words.fill(0xffff_ffff);
      key.ethType = 0x0800;
      key.nwProto = 6;
    },
    (mask) => {
      mask.nwTos = 0x03;
    },
  );
  const bytes = encode([action]);
  // set-masked header, IPv4 header, struct, mask
  t.is(Buffer.from(bytes.subarray(8)).toString('hex'), '000000000000000000030000' + '000000000000000000030000');
});

test('rewrites in a row of the same field stay apart', (t) => {
  const ttl = (value: number): Action =>
    set(
      (key) => {
        key.ethType = 0x0800;
        key.nwTtl = value;
      },
      (mask) => {
        mask.nwTtl = 0xff;
      },
    );
  const bytes = encode([ttl(1), ttl(2)]);
  t.true(actionsEqual(readActions(bytes, 0, bytes.length).actions, [ttl(1), ttl(2)]));
});

const refused: Record<string, [(key: FlowKey) => void, (mask: FlowKey) => void, RegExp]> = {
  'an address without EtherType': [
    () => undefined,
    (mask) => {
      mask.ipv4Src = 1;
    },
    /set of NW_SRC: the kernel cannot rewrite it in a packet of EtherType 0x0000/,
  ],
  'the type of an ICMP message': [
    (key) => {
      key.ethType = 0x0800;
      key.nwProto = 1;
    },
    (mask) => {
      mask.tpSrc = 0xff;
    },
    /set of TP_SRC: .* protocol 1 /,
  ],
  'fields of ARP': [
    (key) => {
      key.ethType = 0x0806;
    },
    (mask) => {
      mask.arpSha = 0xff;
    },
    /set of ARP_SHA: .* EtherType 0x0806/,
  ],
  'the second word of an IPv6 address in IPv4': [
    (key) => {
      key.ethType = 0x0800;
    },
    (mask) => {
      mask.words[Word.NW_SRC + 1] = 1;
    },
    /set of NW_SRC/,
  ],
  'the EtherType': [
    () => undefined,
    (mask) => {
      mask.ethType = 1;
    },
    /set of ETH_TYPE/,
  ],
};

for (const [what, [change, seen, message]] of Object.entries(refused)) {
  test(`a set of ${what} is refused by name`, (t) => {
    t.throws(() => encode([set(change, seen)]), { instanceOf: UnsupportedError, message });
  });
}

test('NAT follows the commit it needs', (t) => {
  const bytes = encode([{ type: 'ct', zone: 5, commit: true, nat: { kind: 'src', ipMin: [0x0a000001] } }]);
  const reader = new AttributeReader();
  reader.reset(bytes);
  reader.next();
  t.deepEqual(types(reader.raw()), [1, 2, 6]);
});

test('what cannot be expressed makes actions incomplete and leaves the rest', (t) => {
  const writer = new MessageWriter();
  writer.u32(ActionAttr.OUTPUT, 1);
  writer.attribute(9, 8); // push_mpls
  const nest = writer.nest(ActionAttr.SET_MASKED);
  writer.attribute(KeyAttr.MPLS, 8);
  writer.endNest(nest);
  writer.u32(ActionAttr.OUTPUT, 2);
  const back = readActions(writer.bytes, 0, writer.length);
  t.false(back.complete);
  t.deepEqual(back.actions, [
    { type: 'output', port: 1 },
    { type: 'output', port: 2 },
  ]);
});

test('garbage is refused with a ProtocolError and nothing else', (t) => {
  const check = (bytes: Uint8Array): void => {
    try {
      readActions(bytes, 0, bytes.length);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 120, size: 'max' }), check), { numRuns: 500 });
  fc.assert(
    fc.property(actionLists, fc.nat(), fc.integer({ min: 0, max: 255 }), (actions, at, byte) => {
      const bytes = encode(actions);
      if (bytes.length > 0) bytes[at % bytes.length] = byte;
      check(bytes);
    }),
    { numRuns: 1000 },
  );
  // Clones all the way down.
  const deep = new Uint8Array(4 * 5000);
  const view = new DataView(deep.buffer);
  for (let i = 0; i < 5000; i++) {
    view.setUint16(4 * i, deep.length - 4 * i, true);
    view.setUint16(4 * i + 2, ActionAttr.CLONE, true);
  }
  t.throws(() => readActions(deep, 0, deep.length), { instanceOf: ProtocolError });
});
