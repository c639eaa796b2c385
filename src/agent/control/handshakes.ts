import type { Server } from 'node:https';
import type { Socket } from 'node:net';

/** Connections of one address that have not proved yet that they know the key; and of all. */
const MAX_OF_ADDRESS = 16;
const MAX_OPEN = 256;

/**
 * The connections of a server whose handshake is under way. It takes milliseconds, so where there are too many the oldest is closed, as
 * the one that is least likely to end it: whoever connects and says nothing takes no other's place.
 */
export class Handshakes {
  /** By where they come from, the oldest first. */
  private readonly open = new Map<string, { readonly address: string | undefined; readonly socket: Socket }>();

  constructor(server: Server) {
    server.on('connection', (socket: Socket) => this.admit(socket));
    server.on('secureConnection', (socket) => this.open.delete(originOf(socket)));
  }

  private admit(socket: Socket): void {
    const origin = originOf(socket);
    const address = socket.remoteAddress;
    this.open.set(origin, { address, socket });
    socket.once('close', () => {
      if (this.open.get(origin)?.socket === socket) this.open.delete(origin);
    });
    const ofAddress = [...this.open].filter(([, one]) => one.address === address);
    if (ofAddress.length > MAX_OF_ADDRESS) this.drop(ofAddress[0][0]);
    else if (this.open.size > MAX_OPEN) this.drop(this.open.keys().next().value!);
  }

  private drop(origin: string): void {
    this.open.get(origin)!.socket.destroy();
    this.open.delete(origin);
  }
}

function originOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
