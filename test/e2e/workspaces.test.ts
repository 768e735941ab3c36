import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Api, rawExchange, startApi } from './api.ts';
import { type ServedRoute, withRoutes } from './served-routes.ts';

let api: Api;
let routes: readonly ServedRoute[];
beforeAll(async () => {
  ({ it: api, routes } = await withRoutes(() => startApi()));
});
afterAll(() => api.close());

const INFO = '/api/3.0/mlflow/server-info';
const UNKNOWN = ['/', '/api/v1/none', '/api/2.0/mlflow-artifacts/none', '/nowhere'];
/** Each route with each method of HTTP, under each of its names, and what is no route. */
function everything(): { method: string; path: string }[] {
  const paths = new Set([...routes.map(({ path }) => path), ...UNKNOWN]);
  paths.delete(INFO);
  const names = [...paths].flatMap((path) =>
    path.startsWith('/api/') ? [path, path.replace('/api/', '/ajax-api/')] : [path],
  );
  return ['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE', 'OPTIONS'].flatMap((method) =>
    names.map((path) => ({ method, path })),
  );
}

const ask = (method: string, path: string, headers: readonly string[]): Promise<string> =>
  rawExchange(
    api.port,
    [`${method} ${path} HTTP/1.1`, 'Host: localhost', 'Connection: close', ...headers, '', ''].join('\r\n'),
  );

test.each([
  'team-a',
  'Default',
  'DEFAULT',
  'default2',
  '"default"',
  'default, default',
  'default\r\nX-MLFLOW-WORKSPACE: team-a',
  'team-a\r\nX-MLFLOW-WORKSPACE: default',
  'd\xe9faut',
])('a request for the workspace %j is refused on every route, before its body is read', async (name) => {
  expect(routes.length).toBeGreaterThan(20);
  for (const { method, path } of everything()) {
    const waits = ['PUT', 'POST', 'PATCH'].includes(method)
      ? ['Content-Length: 5', 'Expect: 100-continue']
      : [];
    const answer = await ask(method, path, [`X-MLFLOW-WORKSPACE: ${name}`, ...waits]);
    expect([method, path, answer.slice(0, 13)]).toEqual([method, path, 'HTTP/1.1 400 ']);
    if (method === 'HEAD') continue;
    const error = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4));
    expect(error).toMatchObject({
      error_code: 'INVALID_PARAMETER_VALUE',
      message: expect.stringMatching(/^X-MLFLOW-WORKSPACE: the workspace '.*' cannot be served/),
    });
  }
  expect(readdirSync(api.root)).toEqual([]);
  expect(await (await fetch(`${api.url}/api/v1/transfers`)).json()).toEqual({ transfers: [] });
});

test.each(['default', '', ' ', ' default '])(
  'the workspace %j is the default one, and served',
  async (name) => {
    for (const { method, path } of everything().filter(({ path }) => !path.endsWith('/events'))) {
      const answer = await ask(method, path, [`X-MLFLOW-WORKSPACE: ${name}`]);
      expect([method, path, answer]).not.toEqual([
        method,
        path,
        expect.stringContaining('X-MLFLOW-WORKSPACE'),
      ]);
    }
    const headers = { 'x-mlflow-workspace': name };
    const put = await fetch(`${api.artifacts}x.txt`, { method: 'PUT', body: 'x', headers });
    expect(put.status).toBe(200);
    expect(await (await fetch(`${api.artifacts}x.txt`, { headers })).text()).toBe('x');
    await fetch(`${api.artifacts}x.txt`, { method: 'DELETE', headers });
  },
);

test('whether there are workspaces is told whatever workspace is named: MLflow’s client asks so', async () => {
  const answer = await fetch(`${api.url}${INFO}`, { headers: { 'x-mlflow-workspace': 'team-a' } });
  expect([answer.status, await answer.json()]).toEqual([
    200,
    expect.objectContaining({ workspaces_enabled: false }),
  ]);
});

test('a page may ask whether it may send the header', async () => {
  const answer = await fetch(`${api.artifacts}x`, {
    method: 'OPTIONS',
    headers: {
      origin: 'http://localhost:3000',
      'access-control-request-method': 'PUT',
      'access-control-request-headers': 'x-mlflow-workspace',
    },
  });
  expect([answer.status, answer.headers.get('access-control-allow-headers')]).toEqual([
    200,
    'x-mlflow-workspace',
  ]);
});
