import { expect, test } from 'vitest';
import { dispositionOf } from '../../apps/api/content-type.ts';
import { contentTypeOf } from '../../lib/transfer/media-type.ts';

test.each([
  ['a.txt', 'text/plain'],
  ['metrics.json', 'text/plain'],
  ['METRICS.JSON', 'application/json'],
  ['page.html', 'text/html'],
  ['code.js', 'text/plain'],
  ['MLmodel', 'text/plain'],
  ['mlproject', 'text/plain'],
  ['json', 'text/plain'],
  ['.json', 'application/octet-stream'],
  ['model.pkl', 'application/octet-stream'],
  ['plot.png', 'image/png'],
  ['PLOT.PNG', 'image/png'],
  ['report.pdf', 'application/pdf'],
  ['model.tar.gz', 'application/x-tar'],
  ['model.tgz', 'application/x-tar'],
  ['weights.gz', 'application/octet-stream'],
  ['data.csv.gz', 'text/csv'],
  ['no-extension', 'application/octet-stream'],
  ['x.constructor', 'application/octet-stream'],
  ['x.__proto__', 'application/octet-stream'],
  ['weights.h5', 'application/x-hdf5'],
])('%s is %s', (name, type) => {
  expect(contentTypeOf(name)).toBe(type);
});

test.each([
  ['a.txt', 'attachment; filename=a.txt'],
  ['q?m.txt', 'attachment; filename="q?m.txt"'],
  ['two words.txt', 'attachment; filename="two words.txt"'],
  ['a"b.txt', 'attachment; filename="a\\"b.txt"'],
  ['dog+step+20.png', 'attachment; filename=dog+step+20.png'],
  ['日 x%y.json', `attachment; filename=" x%y.json"; filename*=UTF-8''%E6%97%A5%20x%25y.json`],
  ['é.txt', `attachment; filename=e.txt; filename*=UTF-8''%C3%A9.txt`],
  ['日本', `attachment; filename=download; filename*=UTF-8''%E6%97%A5%E6%9C%AC`],
  ["é'(1)*.txt", `attachment; filename="e'(1)*.txt"; filename*=UTF-8''%C3%A9%27%281%29%2A.txt`],
])('%s is offered as %s', (name, disposition) => {
  expect(dispositionOf(name)).toBe(disposition);
});
