// What the set-up says about itself. All of it goes to stderr: stdout belongs to the command that was asked for.

/** Says one short line about what happens now. */
export function say(/** @type {string} */ line) {
  process.stderr.write(`midonet: ${line}\n`);
}

/** An end of the set-up that the user can do something about: shown without a stack. */
export class SetupError extends Error {}

/** What a failed child process said last, or else the error itself. */
export function stderrOf(/** @type {unknown} */ error) {
  const text = error && typeof error === 'object' && 'stderr' in error ? String(error.stderr ?? '').trim() : '';
  return text.split('\n').slice(-5).join('; ') || (error instanceof Error ? error.message : String(error));
}
