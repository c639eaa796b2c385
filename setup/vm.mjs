// Runs one command in a virtual machine with Debian's kernel and the host's file tree. See docs/development.md.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { cpus, release, constants as system, tmpdir } from 'node:os';
import { join } from 'node:path';
import { EndMark } from './end-mark.mjs';
import { commandScript, terminalScript } from './job.mjs';
import { cacheFolder, prepareKernel, writeAtomically } from './kernel.mjs';
import { SetupError, say } from './progress.mjs';

/** With KVM a guest that works says so within a second; one that does not (seen on nested hosts) hangs for ever. */
const KVM_DEADLINE_MS = 8_000;
const EMULATION_DEADLINE_MS = 120_000;
const KERNEL_RUNS = 'midonet-vm: kernel runs';
const SERIAL_TAIL = 16_384;

const JOB_FOLDER = 'midonet-vm-';
const LONGEST_SOCKET = 'control';
/** `sun_path` of unix(7) without its end. */
const MAX_SOCKET_PATH = 107;
/** Three of them fit into a kernel's command line (2048 bytes on x86) beside the rest. */
const MAX_TOLD_PATH = 500;

/** The exit status of a VM that was ended because of its time limit, as of timeout(1). */
export const TIMED_OUT = 124;

/**
 * @typedef {object} VmOptions
 * @property {string} checkout the folder that stays writable for the guest
 * @property {string} folder where the command runs; outside of the checkout the guest sees it read-only
 * @property {number} [memory] MB, 4096 unless told
 * @property {number} [cpus] 2 unless told
 * @property {number} [timeout] seconds until the VM is ended with TIMED_OUT; 0 for none
 * @property {boolean} [terminal] give the command a terminal; decided by this process' own streams unless told
 * @property {(chunk: Buffer) => void} [onOutput] takes stdout in place of this process' stdout; the command then has no input
 * @property {Record<string, string | undefined>} [environment] the command's, this process' unless told
 * @property {AbortSignal} [signal] ends the VM at once
 */

/**
 * Runs a command in a VM with this process' streams; resolves to its exit status.
 * Rejects with SetupError when the VM does not boot, or ends without a status (a kernel panic).
 * @param {string[]} command
 * @param {VmOptions} options
 * @returns {Promise<number>}
 */
export async function runInVm(command, options) {
  checkVmPath('the checkout', options.checkout);
  checkVmPath('MIDONET_CACHE', cacheFolder());
  checkVmPath('TMPDIR', join(realpathSync(tmpdir()), `${JOB_FOLDER}XXXXXX`, LONGEST_SOCKET), MAX_SOCKET_PATH);
  const kernel = prepareKernel();
  const accelerators = chooseAccelerators();
  for (const accelerator of accelerators) {
    const last = accelerator === accelerators.at(-1);
    const machine = new Machine(kernel, command, options, accelerator, !last);
    const status = await machine.run();
    if (status !== undefined) {
      if (!process.env.MIDONET_VM_ACCEL) rememberAccelerator(accelerator);
      return status;
    }
    say('KVM opens but does not run a guest here: emulating, now and from now on');
  }
  throw new SetupError('the VM did not boot');
}

/**
 * Refuses a path that the VM cannot be told of: words of the kernel's command line end at a space, options of qemu at a
 * comma, and both take some other characters for their own.
 * @param {string} what
 * @param {string} path
 * @param {number} [limit] bytes
 */
export function checkVmPath(what, path, limit = MAX_TOLD_PATH) {
  const odd = /[^\p{L}\p{N}_./+@:~-]/u.exec(path)?.[0];
  if (odd) throw new SetupError(`the VM does not work with ${JSON.stringify(odd)} in the path of ${what}: ${path}`);
  if (Buffer.byteLength(path) > limit) {
    throw new SetupError(`the VM does not work with a path of more than ${limit} bytes for ${what}: ${path}`);
  }
}

/** @returns {('kvm' | 'tcg')[]} in the order to try */
function chooseAccelerators() {
  const told = process.env.MIDONET_VM_ACCEL;
  if (told === 'kvm' || told === 'tcg') return [told];
  if (told) throw new SetupError(`MIDONET_VM_ACCEL must be kvm or tcg, not ${told}`);
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return ['tcg'];
  }
  const path = verdictFile();
  const known = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  return known.machine === machineName() && known.accelerator === 'tcg' ? ['tcg'] : ['kvm', 'tcg'];
}

function rememberAccelerator(/** @type {string} */ accelerator) {
  const verdict = JSON.stringify({ machine: machineName(), accelerator });
  const path = verdictFile();
  if (existsSync(path) && readFileSync(path, 'utf8') === verdict) return;
  mkdirSync(cacheFolder(), { recursive: true });
  writeAtomically(path, verdict);
}

function verdictFile() {
  return join(cacheFolder(), 'accelerator.json');
}

/** Changes when the cache is carried to another machine, or this one gets another kernel: then KVM is tried again. */
function machineName() {
  return `${cpus()[0]?.model}, Linux ${release()}`;
}

class Machine {
  /** Last words on the serial line. */
  #serial = '';
  #kernelRuns = false;
  #ready = false;
  /** @type {number | undefined} */
  #status;
  #timedOut = false;
  /** @type {import('node:child_process').ChildProcess | undefined} */
  #qemu;
  #folder = '';
  /** @type {import('node:net').Server[]} */
  #servers = [];
  /** @type {import('node:net').Socket | undefined} */
  #control;
  #interrupts = 0;
  /** Ended by the user before the command had a say. */
  #interrupted = false;

  /**
   * @param {import('./kernel.mjs').Kernel} kernel
   * @param {string[]} command
   * @param {VmOptions} options
   * @param {'kvm' | 'tcg'} accelerator
   * @param {boolean} probing another accelerator can be tried when this one does not boot in time
   */
  constructor(kernel, command, options, accelerator, probing) {
    this.kernel = kernel;
    this.command = command;
    this.options = options;
    this.accelerator = accelerator;
    this.probing = probing;
    this.terminal = options.terminal ?? (!options.onOutput && !!process.stdin.isTTY && !!process.stdout.isTTY);
    this.marks = { out: new EndMark(`end-${randomBytes(12).toString('hex')}`), err: new EndMark('') };
    this.marks.err = new EndMark(this.marks.out.mark);
  }

  /** @returns {Promise<number | undefined>} the exit status; undefined when probing showed that it does not boot */
  async run() {
    this.#folder = mkdtempSync(join(realpathSync(tmpdir()), JOB_FOLDER));
    try {
      return await this.#run();
    } finally {
      for (const server of this.#servers) server.close();
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }

  async #run() {
    this.#writeJob();
    await this.#listenAll();
    const qemu = this.#start();
    const stopListening = this.#forwardSignals();
    const timers = this.#startTimers();
    const [code, signal] = await /** @type {Promise<[number | null, string | null]>} */ (
      new Promise((resolve) => {
        qemu.once('error', (error) => {
          this.#serial += `qemu: ${error.message}\n`;
          resolve([127, null]);
        });
        // "close", not "exit": what qemu said on stderr must be in.
        qemu.once('close', (code, signal) => resolve([code, signal]));
      })
    );
    for (const timer of timers) clearTimeout(timer);
    stopListening();
    this.#flush();
    if (this.#status !== undefined) return this.#status;
    if (this.#timedOut) return TIMED_OUT;
    if (this.options.signal?.aborted || this.#interrupted) return 128 + system.signals.SIGINT;
    if (this.probing && !this.#ready) return undefined;
    throw new SetupError(
      `the VM ended without an exit status (qemu ${signal ?? `exit ${code}`}); the end of its serial line:\n${this.#tail()}`,
    );
  }

  #writeJob() {
    const size = this.terminal
      ? { rows: process.stdout.rows || 24, columns: process.stdout.columns || 80 }
      : { rows: 0, columns: 0 };
    writeFileSync(
      join(this.#folder, 'command'),
      commandScript(this.command, this.options, this.options.environment ?? process.env),
    );
    writeFileSync(join(this.#folder, 'terminal'), terminalScript(this.marks.out.mark, size));
  }

  /** qemu connects to these sockets, one per stream. */
  async #listenAll() {
    await this.#listen('serial', (socket) => socket.on('data', (chunk) => this.#onSerial(chunk)));
    await this.#listen('control', (socket) => {
      this.#control = socket;
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) this.#onControl(line);
      });
    });
    await this.#listen('in', (socket) => {
      if (this.options.onOutput) socket.end();
      else if (!this.terminal) process.stdin.pipe(socket);
    });
    await this.#listen('out', (socket) => {
      this.#relay(socket, this.marks.out, this.options.onOutput ?? ((chunk) => process.stdout.write(chunk)));
      if (this.terminal) this.#attachTerminal(socket);
    });
    await this.#listen('err', (socket) => this.#relay(socket, this.marks.err, (chunk) => process.stderr.write(chunk)));
  }

  #listen(/** @type {string} */ name, /** @type {(socket: import('node:net').Socket) => void} */ onSocket) {
    return /** @type {Promise<void>} */ (
      new Promise((resolve, reject) => {
        const server = createServer((socket) => {
          // A killed qemu resets its sockets; that is told by its exit.
          socket.on('error', () => {});
          onSocket(socket);
        });
        this.#servers.push(server);
        server.once('error', reject);
        server.listen(join(this.#folder, name), resolve);
      })
    );
  }

  #relay(
    /** @type {import('node:net').Socket} */ socket,
    /** @type {EndMark} */ mark,
    /** @type {(chunk: Buffer) => unknown} */ write,
  ) {
    socket.on('data', (chunk) => {
      const text = mark.push(chunk);
      if (text.length > 0 && write(text) === false) {
        socket.pause();
        process.stdout.once('drain', () => socket.resume());
      }
      this.#endWhenDone();
    });
  }

  #attachTerminal(/** @type {import('node:net').Socket} */ socket) {
    process.stdin.setRawMode(true);
    process.stdin.on('data', (chunk) => socket.write(chunk));
    process.stdout.on('resize', () => this.#tell(`resize ${process.stdout.rows} ${process.stdout.columns}`));
  }

  #start() {
    const { kernel, options } = this;
    const append = [
      'console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests lsm=capability audit=0 zswap.enabled=0',
      `midonet.checkout=${options.checkout} midonet.job=${this.#folder} midonet.modules=${kernel.modules}`,
    ];
    const streams = this.terminal ? ['control'] : ['control', 'in', 'out', 'err'];
    const sockets = this.terminal ? ['serial', 'control', 'out'] : ['serial', ...streams];
    const args = [
      ...(this.accelerator === 'kvm' ? ['-accel', 'kvm'] : ['-accel', 'tcg,thread=multi']),
      ...['-cpu', 'max', '-smp', String(options.cpus ?? 2), '-m', String(options.memory ?? 4096)],
      ...['-nodefaults', '-no-user-config', '-nic', 'none', '-display', 'none', '-no-reboot'],
      ...['-kernel', kernel.image, '-initrd', kernel.initrd, '-append', append.join(' ')],
      ...['-virtfs', 'local,path=/,mount_tag=host,security_model=none,multidevs=remap'],
      ...['-device', 'virtio-serial-pci,max_ports=8'],
      ...sockets.flatMap((name) => ['-chardev', `socket,id=${name},path=${join(this.#folder, name)},server=off`]),
      ...['-serial', 'chardev:serial'],
      ...(this.terminal ? ['-device', 'virtconsole,nr=0,chardev=out'] : []),
      ...streams.flatMap((name, index) => ['-device', `virtserialport,nr=${index + 1},chardev=${name},name=${name}`]),
    ];
    // A session of its own: Ctrl-C must reach the command in the VM, not end the VM; and it must not outlive this process.
    const qemu = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    });
    qemu.stderr?.on('data', (chunk) => this.#onSerial(chunk));
    this.#qemu = qemu;
    return qemu;
  }

  #startTimers() {
    const timers = [];
    const limit = this.probing ? KVM_DEADLINE_MS : EMULATION_DEADLINE_MS;
    timers.push(
      setTimeout(() => {
        if (this.#ready || (this.probing && this.#kernelRuns)) return;
        this.#serial += `(no sign of life after ${limit / 1000} s)\n`;
        this.#kill();
      }, limit),
    );
    if (this.options.timeout) {
      timers.push(
        setTimeout(() => {
          this.#timedOut = true;
          say(
            `the VM is ended after its time limit of ${this.options.timeout} s; the end of its serial line:\n${this.#tail()}`,
          );
          this.#kill();
        }, this.options.timeout * 1000),
      );
    }
    return timers;
  }

  /** The first signal goes to the command, a third one ends the VM. */
  #forwardSignals() {
    const names = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']);
    const onSignal = (/** @type {string} */ name) => {
      this.#interrupts += 1;
      if (!this.#ready || this.#interrupts > 2) {
        this.#interrupted = true;
        this.#kill();
      } else this.#tell(`signal ${name.slice(3)}`);
    };
    for (const name of names) process.on(name, onSignal);
    const onAbort = () => this.#kill();
    this.options.signal?.addEventListener('abort', onAbort);
    return () => {
      for (const name of names) process.off(name, onSignal);
      this.options.signal?.removeEventListener('abort', onAbort);
    };
  }

  #onSerial(/** @type {Buffer} */ chunk) {
    this.#serial = (this.#serial + chunk.toString('latin1')).slice(-SERIAL_TAIL);
    if (this.#serial.includes(KERNEL_RUNS)) this.#kernelRuns = true;
  }

  #onControl(/** @type {string} */ line) {
    const [what, value] = line.split(' ');
    if (what === 'ready') this.#ready = true;
    if (what === 'exit') {
      this.#status = Number(value);
      this.#endWhenDone();
    }
  }

  /** The guest has synced its writes before it told the status: nothing is lost by pulling the plug. */
  #endWhenDone() {
    if (this.#status === undefined || !this.marks.out.seen) return;
    if (this.terminal || this.marks.err.seen) this.#kill();
  }

  /** What was held back as the possible beginning of an end mark. */
  #flush() {
    const out = this.marks.out.rest();
    if (out.length > 0) (this.options.onOutput ?? ((chunk) => process.stdout.write(chunk)))(out);
    const err = this.marks.err.rest();
    if (err.length > 0) process.stderr.write(err);
    if (this.options.onOutput) return;
    if (this.terminal) process.stdin.setRawMode(false);
    process.stdin.unpipe();
    process.stdin.removeAllListeners('data');
    process.stdin.pause();
    if ('unref' in process.stdin) process.stdin.unref();
  }

  #tell(/** @type {string} */ line) {
    this.#control?.write(`${line}\n`);
  }

  #kill() {
    this.#qemu?.kill('SIGKILL');
  }

  #tail() {
    return this.#serial.replaceAll('\r', '').split('\n').slice(-80).join('\n').trim();
  }
}
