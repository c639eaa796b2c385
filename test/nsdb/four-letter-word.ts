import { connect } from 'node:net';

/** What a server at `host:port` answers to one of ZooKeeper's administrative words; empty when it does not. */
export function fourLetterWord(address: string, word: string): Promise<string> {
  const colon = address.lastIndexOf(':');
  return new Promise((resolve) => {
    const socket = connect(Number(address.slice(colon + 1)), address.slice(0, colon), () => socket.write(word));
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk.toString();
    });
    // It may accept before it answers; and a connection to a port that nobody listens on yet may be one to itself.
    socket.setTimeout(1000, () => socket.destroy());
    socket.on('error', () => resolve(''));
    socket.on('close', () => resolve(answer));
  });
}
