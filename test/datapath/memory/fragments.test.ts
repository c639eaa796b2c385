import test from 'ava';
import { Fragments } from '../../../src/datapath/memory/fragments.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildIpv6 } from '../../../src/packet/ipv6.js';

const DATA = Uint8Array.from({ length: 40 }, (_, i) => i);
const CUT = 24;

function frame(family: 4 | 6, isFirst: boolean, vlan: number | undefined): Uint8Array {
  const fragment = { offset: isFirst ? 0 : CUT, more: isFirst, id: 7 };
  const data = isFirst ? DATA.slice(0, CUT) : DATA.slice(CUT);
  const ip =
    family === 4
      ? buildIpv4({ src: 1, dst: 2, protocol: IpProtocol.UDP, id: 7, fragment }, data)
      : buildIpv6({ src: [1, 0, 0, 1], dst: [1, 0, 0, 2], protocol: IpProtocol.UDP, fragment }, data);
  const type = family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  return buildEthernet({ dst: 2, src: 1, type, vlans: vlan === undefined ? [] : [{ id: vlan }] }, ip);
}

for (const family of [4, 6] as const) {
  for (const isFirstTagged of [false, true]) {
    const which = isFirstTagged ? 'first' : 'second';
    test(`IPv${family} fragments are put together though only the ${which} one has a VLAN tag`, (t) => {
      const fragments = new Fragments(() => 0);
      const packet = { bytes: new Uint8Array(0) as Uint8Array, fragmentSize: 0, key: { nwFrag: 1 }, refresh: () => {} };
      const gather = (isFirst: boolean) => {
        packet.bytes = frame(family, isFirst, isFirst === isFirstTagged ? 5 : undefined);
        return fragments.gather(packet, 0);
      };
      t.false(gather(true));
      t.true(gather(false));
      t.is(packet.key.nwFrag, 0);
      t.deepEqual(packet.bytes.slice(-DATA.length), DATA);
      t.is(
        packet.bytes.length,
        (isFirstTagged ? 18 : 14) + (family === 4 ? 20 : 40) + DATA.length,
        'headers of the first',
      );
    });
  }
}
