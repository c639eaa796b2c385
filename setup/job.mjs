// The shell scripts by which the VM learns what to run, and where.
import { relative } from 'node:path';

/** Set by npm for its own scripts, or naming things of the host that the VM has not. */
const HOST_ONLY = /^(npm_.*|INIT_CWD|SSH_.*|DBUS_.*|XDG_RUNTIME_DIR|TMPDIR|PWD|OLDPWD|SHLVL|_)$/;

/** A word as a shell takes it, whatever it holds. */
export function quote(/** @type {string} */ word) {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * A script that becomes the command, in the caller's folder and environment.
 * @param {string[]} command
 * @param {{folder: string}} place
 * @param {Record<string, string | undefined>} environment
 */
export function commandScript(command, place, environment) {
  const lines = [];
  for (const [name, value] of Object.entries({ TERM: 'dumb', ...environment })) {
    if (value === undefined || HOST_ONLY.test(name) || !/^[A-Za-z_]\w*$/.test(name)) continue;
    lines.push(`export ${name}=${quote(value)}`);
  }
  lines.push('export MIDONET_IN_VM=1', `cd ${quote(place.folder)} || exit 125`, `exec ${command.map(quote).join(' ')}`);
  return `${lines.join('\n')}\n`;
}

/**
 * What the guest must know about the streams; no rows without a terminal.
 * @param {string} mark
 * @param {{rows: number, columns: number}} size
 */
export function terminalScript(mark, size) {
  return `end=${mark}\nrows=${size.rows}\ncolumns=${size.columns}\n`;
}

/** The folder for a command: the caller's, as npm remembers it, or the checkout's root. */
export function callersFolder(/** @type {string} */ checkout) {
  const folder = process.env.npm_lifecycle_event && process.cwd() === checkout ? process.env.INIT_CWD : process.cwd();
  return folder && !relative(checkout, folder).startsWith('..') ? folder : checkout;
}
