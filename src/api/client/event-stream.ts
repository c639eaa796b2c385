/** One event of a stream of server-sent events (HTML standard, section 9.2). */
export interface StreamEvent {
  /** `message` when the stream does not say. */
  readonly type: string;
  readonly data: string;
  /** The last identifier that the stream gave, with this event or before; an event may be that, and no data. */
  readonly id: string | undefined;
}

/**
 * Events as they come: a list for each part of the stream that is read, an empty one for signs of life such as comments.
 * Lines end in LF or CR LF, as ours do, not in CR alone.
 */
export async function* readEvents(stream: AsyncIterable<Buffer>): AsyncGenerator<readonly StreamEvent[], void> {
  const decoder = new TextDecoder();
  let rest = '';
  let type = '';
  let data: string[] = [];
  let isIdentified = false;
  let id: string | undefined;
  for await (const part of stream) {
    rest += decoder.decode(part, { stream: true });
    const lines = rest.split('\n');
    rest = lines.pop()!;
    const events: StreamEvent[] = [];
    for (const line of lines) {
      const [name, value] = fieldOf(line.endsWith('\r') ? line.slice(0, -1) : line);
      if (name === undefined) {
        if (data.length > 0 || isIdentified) events.push({ type: type || 'message', data: data.join('\n'), id });
        type = '';
        data = [];
        isIdentified = false;
      } else if (name === 'event') type = value;
      else if (name === 'data') data.push(value);
      else if (name === 'id') {
        id = value;
        isIdentified = true;
      }
    }
    yield events;
  }
}

/** Name and value; no name for the empty line that ends an event, an empty one for comments. */
function fieldOf(line: string): [string | undefined, string] {
  if (line === '') return [undefined, ''];
  const colon = line.indexOf(':');
  if (colon < 0) return [line, ''];
  return [line.slice(0, colon), line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)];
}
