import { randomInt } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_TUNNEL_KEY } from '../../topology/types.js';

/**
 * The tunnel keys of this host: each stands for a port, or for all ports of a bridge. Other hosts' flows carry them, so
 * they are kept on disk, one file a key, and are the same after a restart. A key that was given back is reused as late as
 * can be: a flow of another host that still carries it must not reach somebody else's port.
 *
 * A crash of the process loses no key. A power failure may: the files are not forced to the disk, as an ADD must not wait
 * for that. Containers end with the power anyhow; what outlives it (ports that the NSDB binds to interfaces, bridges) gets
 * another key, which is published like the first, and flows of other hosts follow it. The key in a port's binding in the
 * NSDB is only what other hosts are told: it is never taken back from there, for ports must come up without the NSDB.
 */
export class TunnelKeys {
  private readonly byOwner = new Map<string, number>();
  private readonly used = new Set<number>();
  private next = randomInt(1, MAX_TUNNEL_KEY + 1);

  private constructor(private readonly folder: string) {}

  /** Read the keys of the last run from `folder`, which is made if need be. */
  static async open(folder: string): Promise<TunnelKeys> {
    await mkdir(folder, { recursive: true });
    const keys = new TunnelKeys(folder);
    for (const name of await readdir(folder)) {
      const key = Number(name);
      const owner = await readFile(join(folder, name), 'utf8');
      const isKey = Number.isInteger(key) && key >= 1 && key <= MAX_TUNNEL_KEY;
      if (owner === '' || !isKey) {
        await rm(join(folder, name));
        // The power failed before the text was on the disk. Others may have been told of the key: for this run it is nobody's.
        if (isKey) keys.used.add(key);
        continue;
      }
      keys.byOwner.set(owner, key);
      keys.used.add(key);
    }
    return keys;
  }

  /** Everything that has a key. */
  owners(): IterableIterator<string> {
    return this.byOwner.keys();
  }

  keyOf(owner: string): number | undefined {
    return this.byOwner.get(owner);
  }

  /** The key of `owner` (a text that names a port or bridge), chosen now if it has none. */
  take(owner: string): number {
    const existing = this.byOwner.get(owner);
    if (existing !== undefined) return existing;
    while (this.used.has(this.next)) this.advance();
    const key = this.next;
    this.advance();
    this.byOwner.set(owner, key);
    this.used.add(key);
    try {
      writeFileSync(join(this.folder, String(key)), owner, { flag: 'wx' });
    } catch (error) {
      this.byOwner.delete(owner);
      this.used.delete(key);
      throw error;
    }
    return key;
  }

  /** Succeeds when the owner has none. Where it throws the owner still has the key. */
  release(owner: string): void {
    const key = this.byOwner.get(owner);
    if (key === undefined) return;
    rmSync(join(this.folder, String(key)), { force: true });
    this.byOwner.delete(owner);
    this.used.delete(key);
  }

  private advance(): void {
    this.next = this.next === MAX_TUNNEL_KEY ? 1 : this.next + 1;
  }
}
