import { MidonetError } from '../src/errors.js';

/**
 * What the C program (cni/midonet.c) and the agent say to each other over a unix stream socket: one request, one reply, then
 * the connection closes. Numbers are unsigned, 32 bits, most significant byte first.
 *
 *     request   0  'MNC1'
 *               4  process id of the program
 *               8  length E of the environment, at most 65536
 *              12  length S of standard input, at most 1048576
 *              16  E bytes: NAME=VALUE, each with a zero byte behind it; CNI_*, TRACEPARENT, TRACESTATE, BAGGAGE
 *            16+E  S bytes: standard input
 *
 *     reply     0  'MNR1'
 *               4  exit status, 0 to 255
 *               8  length O of standard output, at most 4194304
 *              12  length R of standard error, at most 65536
 *              16  O bytes for standard output
 *            16+O  R bytes for standard error
 *
 * The program going away before the reply is a request to stop and undo.
 */
export const HEADER_LENGTH = 16;
export const MAX_ENVIRONMENT = 64 * 1024;
export const MAX_STDIN = 1024 * 1024;
export const MAX_STDOUT = 4 * 1024 * 1024;
export const MAX_STDERR = 64 * 1024;

const REQUEST_MAGIC = 0x4d4e_4331;
const REPLY_MAGIC = 0x4d4e_5231;

/** A call of the CNI program. */
export interface CniRequest {
  readonly pid: number;
  readonly environment: ReadonlyMap<string, string>;
  readonly stdin: string;
}

/** What the program shall print, and its exit status. */
export interface CniReply {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Bytes on the socket are not a request. */
export class FrameError extends MidonetError {
  constructor(message: string) {
    super('MN_PROTOCOL', `CNI request: ${message}`);
  }
}

/** Puts a request together from the pieces in which it arrives. */
export class RequestReader {
  #chunks: Buffer[] = [];
  #length = 0;
  /** Length of the whole frame, once its header is there. */
  #expected: number | undefined;

  /**
   * @returns the request with its last byte, undefined before
   * @throws FrameError as soon as the bytes cannot become a request
   */
  push(chunk: Buffer): CniRequest | undefined {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    if (this.#expected === undefined) {
      if (this.#length < Math.min(HEADER_LENGTH, 4)) return undefined;
      const head = this.#join();
      if (head.readUInt32BE(0) !== REQUEST_MAGIC) throw new FrameError('does not start with MNC1');
      if (this.#length < HEADER_LENGTH) return undefined;
      const environment = head.readUInt32BE(8);
      const stdin = head.readUInt32BE(12);
      if (environment > MAX_ENVIRONMENT) throw new FrameError(`environment of ${environment} bytes`);
      if (stdin > MAX_STDIN) throw new FrameError(`standard input of ${stdin} bytes`);
      this.#expected = HEADER_LENGTH + environment + stdin;
    }
    if (this.#length > this.#expected) throw new FrameError(`${this.#length - this.#expected} bytes too many`);
    return this.#length === this.#expected ? decodeRequest(this.#join()) : undefined;
  }

  /** Whether any byte has come. */
  get started(): boolean {
    return this.#length > 0;
  }

  #join(): Buffer {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks, this.#length)];
    return this.#chunks[0];
  }
}

function decodeRequest(frame: Buffer): CniRequest {
  const environmentLength = frame.readUInt32BE(8);
  const split = HEADER_LENGTH + environmentLength;
  if (environmentLength > 0 && frame[split - 1] !== 0)
    throw new FrameError('environment does not end with a zero byte');
  const environment = new Map<string, string>();
  if (environmentLength > 0) {
    for (const entry of frame.toString('utf8', HEADER_LENGTH, split - 1).split('\0')) {
      const equals = entry.indexOf('=');
      if (equals < 1) throw new FrameError(`environment entry ${JSON.stringify(entry.slice(0, 64))} has no name`);
      environment.set(entry.slice(0, equals), entry.slice(equals + 1));
    }
  }
  return { pid: frame.readUInt32BE(4), environment, stdin: frame.toString('utf8', split) };
}

/** The bytes of a request, as the C program sends them. */
export function encodeRequest(request: CniRequest): Buffer {
  const environment = Buffer.from([...request.environment].map(([name, value]) => `${name}=${value}\0`).join(''));
  const stdin = Buffer.from(request.stdin);
  const header = Buffer.alloc(HEADER_LENGTH);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt32BE(request.pid, 4);
  header.writeUInt32BE(environment.length, 8);
  header.writeUInt32BE(stdin.length, 12);
  return Buffer.concat([header, environment, stdin]);
}

/** The bytes of a reply. Standard error is cut at {@link MAX_STDERR}. */
export function encodeReply(reply: CniReply): Buffer {
  const stdout = Buffer.from(reply.stdout);
  const stderr = Buffer.from(reply.stderr).subarray(0, MAX_STDERR);
  if (stdout.length > MAX_STDOUT) throw new FrameError(`standard output of ${stdout.length} bytes`);
  const header = Buffer.alloc(HEADER_LENGTH);
  header.writeUInt32BE(REPLY_MAGIC, 0);
  header.writeUInt32BE(reply.status, 4);
  header.writeUInt32BE(stdout.length, 8);
  header.writeUInt32BE(stderr.length, 12);
  return Buffer.concat([header, stdout, stderr]);
}
