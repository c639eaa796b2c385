import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** Sends and receives whole Ethernet frames at interfaces of a namespace; to be compiled. */
export const FRAMES_SOURCE = fileURLToPath(new URL('../../test/frames.c', import.meta.url));

/** Whole frames at the interfaces of a namespace, without its kernel's opinion: see frames.c. */
export class Frames {
  private input = Buffer.alloc(0);

  private constructor(
    private readonly process: ChildProcess,
    private readonly interfaces: readonly string[],
    private readonly receive: (name: string, frame: Uint8Array) => void,
  ) {}

  /**
   * @param program compiled from {@link FRAMES_SOURCE}
   * @param receive called with each frame that comes in, from when the promise is settled on
   */
  static async start(
    program: string,
    namespace: string,
    interfaces: readonly string[],
    receive: (name: string, frame: Uint8Array) => void,
  ): Promise<Frames> {
    const child = spawn('ip', ['netns', 'exec', namespace, program, ...interfaces], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const frames = new Frames(child, interfaces, receive);
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (status) => reject(new Error(`frames ended with ${status}`)));
      child.stdout!.on('data', (data: Buffer) => frames.take(data, resolve));
    });
    return frames;
  }

  /** @param name of one of the interfaces */
  send(name: string, frame: Uint8Array): void {
    const head = Buffer.alloc(4);
    head.writeUInt16BE(this.interfaces.indexOf(name));
    head.writeUInt16BE(frame.length, 2);
    this.process.stdin!.write(Buffer.concat([head, frame]));
  }

  async close(): Promise<void> {
    if (this.process.exitCode !== null) return;
    const ended = once(this.process, 'exit');
    this.process.stdin!.end();
    await ended;
  }

  private take(data: Buffer, ready: () => void): void {
    this.input = Buffer.concat([this.input, data]);
    while (this.input.length >= 4 && this.input.length >= 4 + this.input.readUInt16BE(2)) {
      const end = 4 + this.input.readUInt16BE(2);
      const index = this.input.readUInt16BE(0);
      // The first says that it is ready.
      if (index === 0xffff) ready();
      else this.receive(this.interfaces[index], Uint8Array.from(this.input.subarray(4, end)));
      this.input = this.input.subarray(end);
    }
  }
}
