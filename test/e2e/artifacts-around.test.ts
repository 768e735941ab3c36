import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Api, errorOf, rawExchange, startApi } from './api.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api.close());

const put = (path: string, body: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(api.artifacts + path, { method: 'PUT', body, headers });
const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(api.artifacts + path, { headers });

describe('around the artifacts', () => {
  test('health, version and server-info answer without credentials or Redis', async () => {
    const health = await fetch(`${api.url}/health`);
    expect([health.status, health.headers.get('content-type'), await health.text()]).toEqual([
      200,
      'text/plain',
      'OK',
    ]);
    expect(await (await fetch(`${api.url}/version`)).text()).toMatch(/^\d+\.\d+\.\d+$/);
    for (const head of ['api', 'ajax-api'])
      expect(await (await fetch(`${api.url}/${head}/3.0/mlflow/server-info`)).json()).toMatchObject({
        multipart_uploads_enabled: false,
        multipart_downloads_enabled: false,
        workspaces_enabled: false,
      });
  });

  test('multipart and presigned requests are answered so that clients fall back', async () => {
    for (const what of ['create', 'complete', 'abort']) {
      const answer = await fetch(`${api.url}/api/2.0/mlflow-artifacts/mpu/${what}/some/dir`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ path: 'x', num_parts: 1 }),
      });
      expect(answer.status).toBe(501);
      expect(await errorOf(answer)).toEqual({
        code: 'NOT_IMPLEMENTED',
        message: 'Multipart upload is not supported for the current artifact repository',
      });
    }
    const presigned = await fetch(`${api.url}/api/2.0/mlflow-artifacts/presigned/x`);
    expect([presigned.status, (await errorOf(presigned)).code]).toEqual([501, 'NOT_IMPLEMENTED']);
  });

  test('tracking requests are answered at once and for good', async () => {
    for (const path of [
      '/api/2.0/mlflow/experiments/search',
      '/api/2.0/mlflow/runs/get?run_id=1',
      '/get-artifact?run_id=1',
    ]) {
      const answer = await fetch(api.url + path);
      expect([answer.status, (await errorOf(answer)).code]).toEqual([501, 'NOT_IMPLEMENTED']);
    }
  });

  test('unknown endpoints and methods answer JSON, with Allow where the endpoint exists', async () => {
    const unknown = await fetch(`${api.url}/nope`);
    expect([unknown.status, (await errorOf(unknown)).code]).toEqual([404, 'ENDPOINT_NOT_FOUND']);
    for (const method of ['POST', 'PATCH']) {
      const answer = await fetch(`${api.artifacts}x`, { method });
      expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'DELETE, GET, HEAD, OPTIONS, PUT']);
      await errorOf(answer);
    }
    const options = await fetch(`${api.artifacts}x`, { method: 'OPTIONS' });
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'DELETE, GET, HEAD, OPTIONS, PUT']);
  });

  test('a foreign Host or Origin is refused, a preflight from this machine is not', async () => {
    const host = await rawExchange(
      api.port,
      'GET /api/2.0/mlflow-artifacts/artifacts HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n',
    );
    expect(host).toMatch(/^HTTP\/1\.1 403 /);
    expect(host).toContain('Invalid Host header - possible DNS rebinding attack detected');
    const health = await rawExchange(
      api.port,
      'GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n',
    );
    expect(health).toMatch(/^HTTP\/1\.1 200 /);

    const origin = await put('from-evil', 'x', { origin: 'https://evil.example' });
    expect([origin.status, (await errorOf(origin)).message]).toEqual([403, 'Cross-origin request blocked']);
    expect((await get('from-evil')).status).toBe(404);
    const preflight = await fetch(`${api.artifacts}x`, {
      method: 'OPTIONS',
      headers: { origin: 'http://localhost:3000', 'access-control-request-method': 'PUT' },
    });
    expect(preflight.status).toBe(200);
    expect(preflight.headers.get('access-control-allow-origin')).toBe('http://localhost:3000');
  });

  test('a client that asks before it sends is refused at once, and the connection is closed', async () => {
    const cases = [
      ['/api/2.0/mlflow-artifacts/artifacts/x', 'evil.example', 403],
      ['/api/2.0/mlflow-artifacts/artifacts/%2e%2e/x', 'localhost', 400],
      ['/api/v1/uploads/x?prio=1', 'localhost', 400],
      ['/api/v1/transfers', 'localhost', 405],
      ['/nope', 'localhost', 404],
    ] as const;
    for (const [path, host, status] of cases) {
      const head = `PUT ${path} HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n`;
      const answer = await rawExchange(api.port, head);
      expect(answer, path).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(answer.toLowerCase(), path).toContain('\r\nconnection: close\r\n');
    }
  });

  test('what is no HTTP is answered with JSON', async () => {
    for (const [bytes, status] of [
      ['GARBAGE\r\n\r\n', 400],
      ['GET / HTTP/1.1\r\nConnection: close\r\n\r\n', 400],
      ['GET / HTTP/1.1\r\nHost: localhost\r\nhost: localhost\r\nConnection: close\r\n\r\n', 400],
      [`GET /${'x'.repeat(100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 431],
      ['GET /%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 400],
    ] as const) {
      const answer = await rawExchange(api.port, bytes);
      expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(answer).toContain('"error_code"');
    }
  });
});

describe('behind a static prefix', () => {
  test('every route is served with it and without it', async () => {
    const prefixed = await startApi({ staticPrefix: '/ml' });
    try {
      const service = '/api/2.0/mlflow-artifacts/artifacts';
      const body = 'z'.repeat(300_000);
      for (const head of ['', '/ml']) {
        for (const base of [`${head}${service}`, `${head}${service.replace('/api', '/ajax-api')}`]) {
          const url = `${prefixed.url}${base}/p/${encodeURIComponent('ä b')}`;
          expect((await fetch(url, { method: 'PUT', body })).status).toBe(200);
          expect(await (await fetch(url)).text()).toBe(body);
          expect(await (await fetch(`${prefixed.url}${base}?path=p`)).json()).toEqual({
            files: [{ path: 'ä b', is_dir: false, file_size: body.length }],
          });
          expect((await fetch(url, { method: 'DELETE' })).status).toBe(200);
        }
        expect((await fetch(`${prefixed.url}${head}/health`)).status).toBe(200);
        expect((await fetch(`${prefixed.url}${head}/api/3.0/mlflow/server-info`)).status).toBe(200);
      }
    } finally {
      await prefixed.close();
    }
  });
});
