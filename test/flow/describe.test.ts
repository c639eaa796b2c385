import test from 'ava';
import type { Action } from '../../src/flow/action.js';
import { describeActions, describeMatch, describePacket } from '../../src/flow/describe.js';
import { CtState, FlowKey, VLAN_PRESENT, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { parseIpv6 } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';

function udp6(): FlowKey {
  const key = new FlowKey();
  key.inPort = 3;
  key.ethSrc = 0x0200_0000_0001;
  key.ethDst = 0x0200_0000_0002;
  key.vlanTci = VLAN_PRESENT | 7;
  key.vlanTpid = EtherType.VLAN;
  key.ethType = EtherType.IPV6;
  key.words.set(parseIpv6('fd00::1')!, Word.NW_SRC);
  key.words.set(parseIpv6('fd00::2')!, Word.NW_DST);
  key.nwProto = IpProtocol.UDP;
  key.nwTtl = 9;
  key.tpSrc = 1000;
  key.tpDst = 53;
  key.ctState = CtState.TRACKED | CtState.ESTABLISHED;
  return key;
}

test('a packet is described from the inside out', (t) => {
  t.is(
    describePacket(udp6()),
    'udp [fd00::1]:1000 > [fd00::2]:53, ttl 9, vlan 7, 02:00:00:00:00:01 > 02:00:00:00:00:02',
  );
  const other = new FlowKey();
  other.ethType = 0x88cc;
  t.is(describePacket(other), 'type 0x88cc, 00:00:00:00:00:00 > 00:00:00:00:00:00');
});

test('ARP is described by what it asks or tells', (t) => {
  const key = new FlowKey();
  key.ethType = EtherType.ARP;
  key.words[Word.NW_SRC] = 0x0a00_0001;
  key.words[Word.NW_DST] = 0x0a00_0002;
  key.arpSha = 0x0200_0000_0001;
  const texts = [1, 2, 3].map((operation) => {
    key.nwProto = operation;
    return describePacket(key).replace(/, [0-9a-f:]{17} > .*$/, '');
  });
  t.deepEqual(texts, [
    'arp who-has 10.0.0.2 tell 10.0.0.1',
    'arp 10.0.0.1 is-at 02:00:00:00:00:01',
    'arp operation 3, 10.0.0.1 > 10.0.0.2',
  ]);
});

test('a match names the bits that count, whole fields without their mask', (t) => {
  const mask = new FlowMask();
  t.is(describeMatch(udp6(), mask), 'every packet');
  mask.seeInPort();
  mask.seeVlan();
  mask.seeIpv6Dst(16);
  mask.seeTpDst(0xfff0);
  mask.seeCtState(CtState.ESTABLISHED | CtState.REPLY);
  t.is(
    describeMatch(udp6(), mask),
    'in_port=3 ct_state=+established-reply vlan=7 vlan_tpid=0x8100 eth_type=0x86dd nw_dst=fd00::/16 nw_proto=17 nw_frag=0 tp_dst=48/0xfff0',
  );
  t.regex(describeMatch(udp6(), FlowMask.exact()), / eth_src=02:00:00:00:00:01 eth_dst=02:00:00:00:00:02 vlan=7 /);
});

test('actions are described in order, and none as a drop', (t) => {
  const mask = new FlowMask();
  mask.words[Word.NW_TTL] = 0xff;
  const actions: Action[] = [
    { type: 'set', key: udp6(), mask },
    { type: 'ct', zone: 5, commit: true, nat: { kind: 'src', ipMin: [0x0a00_0001], portMin: 1024, portMax: 2047 } },
    {
      type: 'clone',
      actions: [
        { type: 'set-tunnel', tunnel: { id: 9, src: 0x0a00_0001, dst: 0x0a00_0002, tos: 0, ttl: 64, flags: 0 } },
        { type: 'output', port: 2 },
      ],
    },
    { type: 'recirc', id: 4 },
  ];
  t.is(
    describeActions(actions),
    'set(nw_ttl=9), ct(zone 5, commit, nat src 10.0.0.1 port 1024-2047), clone(set-tunnel(key 9, 10.0.0.1 > 10.0.0.2), output(2)), recirc(4)',
  );
  t.is(describeActions([]), 'drop');
});
