import { InvalidInputError } from '../../errors.js';

const encoder = new TextEncoder();
const MAX_BYTES = 15;

/** Whether the kernel takes `name` for an interface (`dev_valid_name` in net/core/dev.c). */
export function isInterfaceName(name: string): boolean {
  if (name === '' || name === '.' || name === '..' || /[/:\s\0]/.test(name)) {
    return false;
  }
  return name.length <= MAX_BYTES && encoder.encode(name).length <= MAX_BYTES;
}

/** @throws InvalidInputError naming `field` if `name` cannot be the name of an interface */
export function requireInterfaceName(name: string, field: string): string {
  if (typeof name !== 'string' || !isInterfaceName(name)) {
    throw new InvalidInputError(
      field,
      name,
      'expected the name of an interface: 1 to 15 bytes without "/", ":" and white space, not "." or ".."',
    );
  }
  return name;
}
