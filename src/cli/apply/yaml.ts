import { parse, parseAllDocuments, stringify } from 'yaml';
import { MidonetError } from '../../errors.js';

/** In a module of its own, so that it is loaded only where it is needed. */

/** @throws MidonetError naming the file and the line */
export function parseYaml(text: string, file: string): unknown {
  try {
    return parse(text);
  } catch (cause) {
    throw new MidonetError('MN_INVALID_INPUT', `${file}: ${firstLine(cause as Error)}`, { cause });
  }
}

/**
 * The documents of a file; empty ones are left out.
 * @throws MidonetError naming the file and the line
 */
export function parseYamlDocuments(text: string, file: string): unknown[] {
  const documents = parseAllDocuments(text);
  if (!Array.isArray(documents)) return [];
  return documents.flatMap((document) => {
    const [error] = document.errors;
    if (error !== undefined) {
      throw new MidonetError('MN_INVALID_INPUT', `${file}: ${firstLine(error)}`, { cause: error });
    }
    const value: unknown = document.toJS();
    return value === null || value === undefined ? [] : [value];
  });
}

export function formatYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd();
}

function firstLine({ message }: Error): string {
  return message.split('\n', 1)[0].replace(/:$/, '');
}
