import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Tls } from '../../src/nsdb/store.js';

const run = promisify(execFile);

/** An authority of a test's own and what it has signed, as PEM files in a folder. */
export class Authority {
  private constructor(
    private readonly folder: string,
    private readonly name: string,
  ) {}

  static async make(folder: string, name: string): Promise<Authority> {
    const authority = new Authority(folder, name);
    await authority.openssl(name, []);
    return authority;
  }

  get certificateFile(): string {
    return this.file(`${this.name}.pem`);
  }

  /**
   * One end's side: a certificate for `subject` (such as "IP:127.0.0.1"), and this authority to check the other end by.
   * @param organization in the certificate beside the name
   */
  async issue(name: string, subject: string, organization?: string): Promise<Required<Tls>> {
    const by = ['-CA', this.certificateFile, '-CAkey', this.file(`${this.name}.key`)];
    const more = [...by, '-addext', `subjectAltName=${subject}`, '-addext', 'basicConstraints=CA:FALSE'];
    await this.openssl(name, more, organization === undefined ? '' : `/O=${organization}`);
    const [ca, certificate, key] = await Promise.all(
      [this.certificateFile, this.file(`${name}.pem`), this.file(`${name}.key`)].map((file) => readFile(file, 'utf8')),
    );
    return { ca, certificate, key };
  }

  /** Key and certificate in one file, as Apache ZooKeeper reads them. */
  async keyStore(name: string, { certificate, key }: Required<Tls>): Promise<string> {
    const file = this.file(`${name}-store.pem`);
    await writeFile(file, key + certificate);
    return file;
  }

  private file(name: string): string {
    return join(this.folder, name);
  }

  private async openssl(name: string, more: readonly string[], subject = ''): Promise<void> {
    const key = [
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-keyout',
      this.file(`${name}.key`),
    ];
    const made = ['-out', this.file(`${name}.pem`), '-subj', `/CN=${name}${subject}`, '-days', '2'];
    await run('openssl', ['req', '-x509', ...key, ...made, ...more]);
  }
}
