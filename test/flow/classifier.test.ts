import test from 'ava';
import fc from 'fast-check';
import { Classifier } from '../../src/flow/classifier.js';
import { FLOW_KEY_WORDS, FlowKey, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';

/** Keys over few words and values, so that random ones meet. */
const WORDS = [Word.IN_PORT, Word.NW_DST, FLOW_KEY_WORDS - 1];
const small = fc.array(fc.constantFrom(0, 1), { minLength: WORDS.length, maxLength: WORDS.length });
const top = (value: number) => (value * 0x8000_0001) >>> 0;

function keyFrom(values: number[]): FlowKey {
  const key = new FlowKey();
  for (const [i, word] of WORDS.entries()) key.words[word] = top(values[i]);
  return key;
}

function maskFrom(values: number[]): FlowMask {
  const mask = new FlowMask();
  for (const [i, word] of WORDS.entries()) mask.words[word] = top(values[i]);
  return mask;
}

interface Rule {
  key: FlowKey;
  mask: FlowMask;
  value: number;
}

test('finds what a linear scan finds, over inserts and removes', (t) => {
  const step = fc.record({
    op: fc.constantFrom('insert', 'insert', 'remove', 'lookup', 'find'),
    key: small,
    mask: small,
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
      const classifier = new Classifier<number>();
      let rules: Rule[] = [];
      for (const [i, { op, key: k, mask: m }] of steps.entries()) {
        const key = keyFrom(k);
        const mask = maskFrom(m);
        const same = rules.find((rule) => rule.mask.equals(mask) && rule.key.equalsMasked(key, mask));
        if (op === 'insert') {
          t.is(classifier.insert(key, mask, i), same?.value);
          if (same !== undefined) same.value = i;
          else rules.push({ key, mask, value: i });
        } else if (op === 'remove') {
          t.is(classifier.remove(key, mask), same?.value);
          rules = rules.filter((rule) => rule !== same);
        } else if (op === 'find') {
          t.is(classifier.find(key, mask), same?.value);
        } else {
          const matching = rules.filter((rule) => rule.key.equalsMasked(key, rule.mask)).map((rule) => rule.value);
          const found = classifier.lookup(key);
          if (matching.length === 0) t.is(found, undefined);
          else t.true(matching.includes(found ?? -1));
        }
        t.is(classifier.size, rules.length);
        t.is(classifier.maskCount, new Set(rules.map((rule) => rule.mask.words.join())).size);
      }
      t.deepEqual(
        [...classifier.values()].sort((a, b) => a - b),
        rules.map((rule) => rule.value).sort((a, b) => a - b),
      );
    }),
    { numRuns: 400 },
  );
});

test('masks that are used most come first', (t) => {
  const classifier = new Classifier<string>();
  const rare = new FlowMask();
  rare.seeInPort();
  const common = new FlowMask();
  common.seeEthType();
  const key = new FlowKey();
  key.inPort = 1;
  key.ethType = 0x800;
  classifier.insert(key, rare, 'rare');
  classifier.insert(key, common, 'common');
  const other = new FlowKey();
  other.ethType = 0x800;
  for (let i = 0; i < 2048; i++) t.is(classifier.lookup(other), 'common');
  t.deepEqual(
    classifier.masks().map(({ mask }) => mask.ethType),
    [0xffff, 0],
  );
  t.is(classifier.lookup(key), 'common');
});

test('keys and masks are copied', (t) => {
  const classifier = new Classifier<number>();
  const key = new FlowKey();
  const mask = new FlowMask();
  mask.seeInPort();
  key.inPort = 3;
  classifier.insert(key, mask, 1);
  key.inPort = 4;
  mask.seeEthType();
  t.is(classifier.lookup(key), undefined);
  key.inPort = 3;
  t.is(classifier.lookup(key), 1);
  classifier.masks()[0].mask.words.fill(0);
  t.is(classifier.maskCount, 1);
  t.is(classifier.lookup(new FlowKey()), undefined);
  classifier.clear();
  t.is(classifier.size, 0);
  t.is(classifier.lookup(key), undefined);
});
