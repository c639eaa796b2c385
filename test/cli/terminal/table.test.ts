import test from 'ava';
import { formatDetails, formatTable } from '../../../src/cli/terminal/table.js';

test('what others have written moves no cursor and begins no line', (t) => {
  t.is(
    formatTable(['NAME', 'TENANT'], [['web', 'a\u001b[2Jb\nc\u009b']]),
    'NAME   TENANT\nweb    a\\u001b[2Jb\\u000ac\\u009b',
  );
  t.is(formatDetails([['tenant', 'ä\r\nid: x']]), 'tenant:  ä\\u000d\n         id: x');
});
