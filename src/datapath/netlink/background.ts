import type { NativeSocket } from './native.js';

interface Send {
  readonly socket: NativeSocket;
  readonly bytes: Uint8Array;
  readonly done: (sent: number) => void;
}

const waiting: Send[] = [];
let sending = false;

/**
 * Send in the background when no other socket of the process does. The kernel changes one interface at a time, whoever
 * asks: more threads would only wait for each other there, and Node.js has four for all, files and names included.
 */
export function sendInTurn(socket: NativeSocket, bytes: Uint8Array, done: (sent: number) => void): void {
  waiting.push({ socket, bytes, done });
  if (!sending) {
    sendNext();
  }
}

function sendNext(): void {
  const next = waiting.shift();
  sending = next !== undefined;
  next?.socket.sendInBackground(next.bytes, (sent) => {
    sendNext();
    next.done(sent);
  });
}
