/** Text that tells a terminal nothing but what to show: what tenants have written does not move the cursor of whoever reads it. */
export function printable(text: string): string {
  return text.replaceAll(/[^\P{Cc}\t\n]/gu, escaped);
}

/** The same, of one line, in which nothing ends it either: what others have written must not pass for something else. */
export function plain(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, escaped);
}

function escaped(control: string): string {
  return `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
