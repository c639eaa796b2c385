import type * as z from 'zod';

/**
 * Where a field of this name is, below an object that does not have it itself.
 * @param path of the object in a value of the schema
 * @returns such as `condition.protocol`, or `subnets[].prefix` in the elements of a list; undefined when it is nowhere
 */
export function nestedField(schema: z.ZodType, path: readonly PropertyKey[], name: string): string | undefined {
  const start = path.reduce<readonly z.ZodType[]>(
    (types, key) => (typeof key === 'number' ? types : types.flatMap((type) => fieldsOf(type).get(key) ?? [])),
    [schema],
  );
  const seen = new Set<z.ZodType>(start);
  // The nearest comes first.
  const queue = start.map((type) => ({ type, prefix: '' }));
  for (const { type, prefix } of queue) {
    for (const [field, fieldType] of fieldsOf(type)) {
      if (field === name && prefix !== '') return prefix + field;
      if (seen.has(fieldType)) continue;
      seen.add(fieldType);
      queue.push({ type: fieldType, prefix: `${prefix}${String(field)}${isList(fieldType) ? '[]' : ''}.` });
    }
  }
  return undefined;
}

/** The fields of the objects that values of the type are, or have as elements, in any of the forms that they may have. */
function fieldsOf(type: z.ZodType): Map<PropertyKey, z.ZodType> {
  if ('shape' in type) return new Map(Object.entries(type.shape as Record<string, z.ZodType>));
  return new Map(partsOf(type).flatMap((part) => [...fieldsOf(part)]));
}

function isList(type: z.ZodType): boolean {
  return type.def.type === 'array' || ('innerType' in type.def && isList(type.def.innerType as z.ZodType));
}

/** What a type is made of that has no fields itself. */
function partsOf({ def }: z.ZodType): z.ZodType[] {
  if ('innerType' in def) return [def.innerType as z.ZodType];
  if ('options' in def) return def.options as z.ZodType[];
  if ('element' in def) return [def.element as z.ZodType];
  return 'in' in def ? [def.in as z.ZodType] : [];
}
