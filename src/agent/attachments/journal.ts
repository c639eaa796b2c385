import { mkdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { InvalidInputError } from '../../errors.js';
import { readStateFolder, writeStateFile } from '../../state-file.js';
import { validate } from '../../topology/validate.js';
import { type Attachment, attachmentSchema } from './attachment.js';

/** The attachments of this host, on disk: one file each, named after the port. */
export class Journal {
  readonly #folder: string;
  readonly #records = new Map<string, Attachment>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Read what is in `folder`, which is made if need be. Damaged files are put aside. */
  static async open(folder: string, warn: (message: string, error?: unknown) => void): Promise<Journal> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const journal = new Journal(folder);
    const records = await readStateFolder(
      folder,
      (value, name) => {
        const record = validate(attachmentSchema, value, name);
        if (record.port.id !== name) throw new InvalidInputError(`${name}.port.id`, record.port.id, `expected ${name}`);
        return record;
      },
      ({ path, movedTo, error }) => warn(`${path} is damaged, moved to ${movedTo}`, error),
    );
    for (const [id, record] of records) journal.#records.set(id, record);
    return journal;
  }

  get(portId: string): Attachment | undefined {
    return this.#records.get(portId);
  }

  /** Those that are being made or removed, too. May change while they are gone through. */
  records(): Iterable<Attachment> {
    return this.#records.values();
  }

  /** The record counts when it is on disk, which it is when this returns. */
  write(record: Attachment): void {
    writeStateFile(join(this.#folder, `${record.port.id}.json`), record);
    this.note(record);
  }

  /** The record counts until the next start, whatever is on disk. */
  note(record: Attachment): void {
    this.#records.set(record.port.id, record);
  }

  async remove(portId: string): Promise<void> {
    await unlink(join(this.#folder, `${portId}.json`)).catch(ignoreMissing);
    this.#records.delete(portId);
  }
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}
