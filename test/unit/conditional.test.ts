import { expect, test } from 'vitest';
import { judge, rangeOf } from '../../apps/api/conditional.ts';

const MODIFIED_MS = Date.UTC(2026, 0, 2, 3, 4, 5, 678);
const AT = new Date(MODIFIED_MS).toUTCString();
const BEFORE = new Date(MODIFIED_MS - 60_000).toUTCString();
const AFTER = new Date(MODIFIED_MS + 60_000).toUTCString();
const version = { etag: 'v1', modifiedMs: MODIFIED_MS };

test('If-None-Match with the current tag, weak or in a list or as *, answers a read with not modified', () => {
  for (const tag of ['"v1"', 'W/"v1"', '"v0", "v1"', '*'])
    expect(judge({ 'if-none-match': tag }, version, 'GET')).toBe('not-modified');
  for (const tag of ['"v2"', 'v1', '"v1-2"', ''])
    expect(judge({ 'if-none-match': tag }, version, 'GET')).toBe('go');
});

test('If-None-Match fails a write over what it names, and * over anything', () => {
  expect(judge({ 'if-none-match': '"v1"' }, version, 'PUT')).toBe('failed');
  expect(judge({ 'if-none-match': '*' }, version, 'PUT')).toBe('failed');
  expect(judge({ 'if-none-match': '*' }, undefined, 'PUT')).toBe('go');
});

test('If-Match holds for the current tag only, and never for a weak one or where nothing is', () => {
  expect(judge({ 'if-match': '"v0", "v1"' }, version, 'PUT')).toBe('go');
  expect(judge({ 'if-match': '*' }, version, 'GET')).toBe('go');
  for (const tag of ['"v2"', 'W/"v1"', 'v1'])
    expect(judge({ 'if-match': tag }, version, 'GET')).toBe('failed');
  expect(judge({ 'if-match': '*' }, undefined, 'PUT')).toBe('failed');
});

test('dates count in whole seconds, and only where no tag is given', () => {
  expect(judge({ 'if-modified-since': AT }, version, 'GET')).toBe('not-modified');
  expect(judge({ 'if-modified-since': BEFORE }, version, 'GET')).toBe('go');
  expect(judge({ 'if-modified-since': 'yesterday, I think' }, version, 'GET')).toBe('go');
  expect(judge({ 'if-modified-since': AT, 'if-none-match': '"v0"' }, version, 'GET')).toBe('go');
  expect(judge({ 'if-unmodified-since': AT }, version, 'GET')).toBe('go');
  expect(judge({ 'if-unmodified-since': BEFORE }, version, 'GET')).toBe('failed');
  expect(judge({ 'if-unmodified-since': BEFORE, 'if-match': '"v1"' }, version, 'GET')).toBe('go');
});

test.each([
  ['bytes=0-0', { start: 0, end: 1 }],
  ['bytes=2-5', { start: 2, end: 6 }],
  ['bytes=5-', { start: 5, end: 10 }],
  ['bytes=9-99999999999999999999', { start: 9, end: 10 }],
  ['bytes=-3', { start: 7, end: 10 }],
  ['bytes=-99', { start: 0, end: 10 }],
  ['Bytes=0-0', { start: 0, end: 1 }],
  ['bytes=10-', 'unsatisfiable'],
  ['bytes=99-100', 'unsatisfiable'],
  ['bytes=-0', 'unsatisfiable'],
  ['bytes=5-2', undefined],
  ['bytes=-', undefined],
  ['bytes=0-1,3-4', undefined],
  ['lines=0-1', undefined],
  ['bytes=x-1', undefined],
])('of ten bytes %s is %j', (range, expected) => {
  expect(rangeOf({ range }, version, 10)).toEqual(expected);
});

test('of an empty object nothing can be asked for but its end', () => {
  expect(rangeOf({ range: 'bytes=0-' }, version, 0)).toBe('unsatisfiable');
  expect(rangeOf({ range: 'bytes=-5' }, version, 0)).toBeUndefined();
});

test('If-Range of another version makes a range request one for the whole', () => {
  const range = 'bytes=1-2';
  for (const right of ['"v1"', AT])
    expect(rangeOf({ range, 'if-range': right }, version, 10)).toEqual({ start: 1, end: 3 });
  for (const other of ['"v2"', 'W/"v1"', BEFORE, AFTER, 'x'])
    expect(rangeOf({ range, 'if-range': other }, version, 10)).toBeUndefined();
});
