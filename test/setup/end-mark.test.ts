import test from 'ava';
import fc from 'fast-check';
import { EndMark } from '#setup/end-mark.mjs';

test('what comes before the mark passes, the mark and what follows never show, however it is cut', (t) => {
  // The mark's own characters, so that false beginnings are common.
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '\n'), maxLength: 40, size: 'max' });
  fc.assert(
    fc.property(text, text, fc.array(fc.integer({ min: 1, max: 9 })), (before, after, sizes) => {
      fc.pre(!before.concat('aab').slice(0, -1).includes('aab'));
      const mark = new EndMark('aab');
      const bytes = Buffer.from(`${before}aab${after}`);
      let shown = '';
      for (let at = 0, i = 0; at < bytes.length; i += 1) {
        const size = sizes[i] ?? 4;
        shown += mark.push(bytes.subarray(at, at + size)).toString();
        at += size;
      }
      t.true(mark.seen);
      t.is(shown, before);
      t.is(mark.rest().length, 0);
    }),
  );
});

test('without a mark nothing is lost, and what cannot begin one is shown at once', (t) => {
  const mark = new EndMark('end-42');
  t.is(mark.push(Buffer.from('the en')).toString(), 'the ');
  t.is(mark.push(Buffer.from('d')).toString(), '');
  t.is(mark.push(Buffer.from('-4x')).toString(), 'end-4x');
  t.is(mark.push(Buffer.from('end')).toString(), '');
  t.is(mark.rest().toString(), 'end');
  t.false(mark.seen);
});
