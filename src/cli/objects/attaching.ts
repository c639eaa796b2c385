import type { BatchOperation, PatchOf } from '../../api/client/client.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { formOf, printAs } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';
import { type AnyObject, type Names, pathOf } from './names.js';
import { type ClientFlags, existing, withClient } from './objects.js';

/** `midonet port link|unlink|bind|unbind`. */

export interface LinkFlags extends ClientFlags {
  readonly force?: boolean;
}

export async function linkPorts(one: string, other: string, flags: LinkFlags, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  await withClient(flags, terminal, async (client, names) => {
    const { object: port } = await existing(client, names, 'port', one, signal);
    const { object: peer } = await existing(client, names, 'port', other, signal);
    const isFree = (one: AnyObject, forOther: AnyObject) => one.peerId === undefined || one.peerId === forOther.id;
    const link: BatchOperation = { op: 'patch', kind: 'port', id: port.id, body: { peerId: peer.id } };
    const unlinkPeer: BatchOperation = { op: 'patch', kind: 'port', id: peer.id, body: { peerId: null } };
    if (flags.force === true) await client.batch(isFree(peer, port) ? [link] : [unlinkPeer, link], signal);
    else {
      if (!isFree(port, peer)) throw await linkedError(one, port, names);
      if (!isFree(peer, port)) throw await linkedError(other, peer, names);
      await client.request('PUT', `${pathOf('port', port.id)}/link`, { body: { peerId: peer.id }, signal });
    }
    // As it was read just before, and linked.
    const linked = { ...port, peerId: peer.id };
    await printAs(terminal, formOf(flags), linked, () => `linked port ${one} to ${other}`);
  });
}

async function linkedError(text: string, { peerId }: AnyObject, names: Names): Promise<MidonetError> {
  const peer = await names.nameOf('port', peerId as string);
  return new MidonetError('MN_CONFLICT', `port ${text} is linked to port ${peer}; --force undoes that link`);
}

export async function unlinkPort(port: string, flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const id = await names.idOf('port', port);
    const { object } = await client.ports.patch(id, { peerId: null }, { signal: terminal.signal });
    await printAs(terminal, formOf(flags), object, () => `unlinked port ${port}`);
  });
}

export interface UnbindFlags extends ClientFlags {
  readonly force?: boolean;
}

export interface BindFlags extends UnbindFlags {
  readonly host: string;
  readonly interface: string;
}

export async function bindPort(port: string, flags: BindFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const { object } = await existing(client, names, 'port', port, terminal.signal);
    const hostId = await names.idOf('host', flags.host, '--host');
    if (object.peerId !== undefined) {
      throw new InvalidInputError('port', port, 'expected one that is not linked: `midonet port unlink` undoes that');
    }
    // The agent of another host gives the port another tunnel key.
    const binding = { hostId, interfaceName: flags.interface, tunnelKey: null };
    const bound = await client.ports.patch(object.id, { binding } as unknown as PatchOf<'port'>, {
      force: flags.force,
      signal: terminal.signal,
    });
    const text = `bound port ${port} to ${flags.interface} of ${flags.host}`;
    await printAs(terminal, formOf(flags), bound.object, () => text);
  });
}

export async function unbindPort(port: string, flags: UnbindFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const id = await names.idOf('port', port);
    const options = { force: flags.force, signal: terminal.signal };
    const { object } = await client.ports.patch(id, { binding: null }, options);
    await printAs(terminal, formOf(flags), object, () => `unbound port ${port}`);
  });
}
