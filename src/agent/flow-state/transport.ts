import { createSocket, type Socket } from 'node:dgram';
import type { Logger } from 'pino';
import { formatIpv4, parseIpv4 } from '../../packet/address.js';

/** Carries datagrams between underlay addresses of hosts. They may get lost, and come twice or in another order. */
export interface StateTransport {
  /** @param from an address of this host, at which it receives from here on */
  send(from: number, to: number, bytes: Uint8Array): void;
  /** Receive at these addresses only. */
  retain(addresses: ReadonlySet<number>): void;
  close(): void;
}

export type OpenStateTransport = (receive: (from: number, bytes: Uint8Array) => void) => StateTransport;

const RETRY_MS = 1000;
/** Bytes of datagrams that the kernel keeps for this process: twice what a few peers send ahead. */
const RECEIVE_BUFFER = 1024 * 1024;

/** By UDP, with one port for all hosts. */
export class UdpStateTransport implements StateTransport {
  private readonly sockets = new Map<number, Socket>();
  /** Addresses that could not be bound, and when they may be tried again. */
  private readonly refused = new Map<number, number>();
  private isClosed = false;

  constructor(
    private readonly port: number,
    private readonly receive: (from: number, bytes: Uint8Array) => void,
    private readonly log: Logger,
  ) {}

  send(from: number, to: number, bytes: Uint8Array): void {
    // What cannot be sent is as good as lost, and sent again.
    this.socket(from)?.send(bytes, this.port, formatIpv4(to), () => {});
  }

  retain(addresses: ReadonlySet<number>): void {
    for (const [address, socket] of this.sockets) {
      if (addresses.has(address)) continue;
      this.sockets.delete(address);
      socket.close();
    }
    for (const address of this.refused.keys()) if (!addresses.has(address)) this.refused.delete(address);
  }

  close(): void {
    this.isClosed = true;
    this.retain(new Set());
  }

  private socket(address: number): Socket | undefined {
    const existing = this.sockets.get(address);
    if (existing !== undefined) return existing;
    const retryAt = this.refused.get(address);
    if (this.isClosed || (retryAt !== undefined && performance.now() < retryAt)) return undefined;
    const socket = createSocket({ type: 'udp4', recvBufferSize: RECEIVE_BUFFER });
    this.sockets.set(address, socket);
    socket.on('message', (bytes, { address: source }) => {
      const from = parseIpv4(source);
      if (from !== undefined) this.receive(from, bytes);
    });
    socket.on('error', (error) => {
      if (this.sockets.get(address) !== socket) return;
      this.sockets.delete(address);
      socket.close();
      // Once for each time that it begins, not every second.
      if (retryAt === undefined) {
        const where = `${formatIpv4(address)}:${this.port}`;
        this.log.error({ address: where, error: error.message }, 'cannot receive flow state; trying again');
      }
      this.refused.set(address, performance.now() + RETRY_MS);
    });
    socket.on('listening', () => this.refused.delete(address));
    socket.bind({ address: formatIpv4(address), port: this.port, exclusive: true });
    return socket;
  }
}
