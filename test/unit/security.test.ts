import type { IncomingMessage } from 'node:http';
import { expect, test } from 'vitest';
import { createSecurity, type SecurityRules } from '../../apps/api/security.ts';

const DEFAULTS: SecurityRules = {
  allowedHosts: [],
  corsAllowedOrigins: [],
  xFrameOptions: 'SAMEORIGIN',
  disabled: false,
};

function refusal(
  headers: Record<string, string>,
  rules: Partial<SecurityRules> = {},
  method = 'PUT',
  path = '/api/x',
) {
  const rawHeaders = Object.entries(headers).flat();
  const req = { headers, rawHeaders, method, httpVersionMinor: 1 } as unknown as IncomingMessage;
  return createSecurity({ ...DEFAULTS, ...rules }).check(req, path)?.message;
}
const BAD_HOST = 'Invalid Host header - possible DNS rebinding attack detected';

test.each([
  'localhost',
  'localhost:5600',
  'LOCALHOST:80',
  '127.0.0.1:1',
  '[::1]',
  '[::1]:5600',
  '0.0.0.0:5600',
  '10.0.0.7:5600',
  '192.168.1.2',
  '172.16.0.1',
  '172.31.9.9:80',
  '[fd00::1]:5600',
])('the Host %s is this machine or a private network and is served', (host) => {
  expect(refusal({ host })).toBeUndefined();
});

test.each([
  'evil.example',
  'localhost.evil.example',
  'evil.example:5600',
  '172.32.0.1',
  '8.8.8.8',
  '',
  'a@localhost',
])('the Host %j is refused', (host) => {
  expect(refusal({ host })).toBe(BAD_HOST);
});

test('a request without any Host is told that it needs one', () => {
  expect(refusal({})).toBe('An HTTP/1.1 request needs one Host header');
});

test('configured hosts replace the defaults, with any port and with wildcards', () => {
  const rules = { allowedHosts: ['artifacts.example.com', '*.corp'] };
  expect(refusal({ host: 'artifacts.example.com' }, rules)).toBeUndefined();
  expect(refusal({ host: 'artifacts.example.com:5600' }, rules)).toBeUndefined();
  expect(refusal({ host: 'a.b.corp:1' }, rules)).toBeUndefined();
  expect(refusal({ host: 'localhost' }, rules)).toBe(BAD_HOST);
  expect(refusal({ host: 'artifactsXexample.com' }, rules)).toBe(BAD_HOST);
  expect(refusal({ host: 'anything' }, { allowedHosts: ['*'] })).toBeUndefined();
});

test('health routes are served whatever the Host', () => {
  expect(refusal({ host: 'evil.example' }, {}, 'GET', '/health')).toBeUndefined();
  expect(refusal({ host: 'evil.example' }, {}, 'GET', '/version')).toBeUndefined();
});

test.each(['PUT', 'POST', 'DELETE', 'PATCH'])(
  'a %s from a foreign origin is blocked, one from this machine is not',
  (method) => {
    const host = 'localhost';
    expect(refusal({ host, origin: 'https://evil.example' }, {}, method)).toBe(
      'Cross-origin request blocked',
    );
    expect(refusal({ host, origin: 'null' }, {}, method)).toBe('Cross-origin request blocked');
    expect(refusal({ host, origin: 'http://localhost.evil.example' }, {}, method)).toBe(
      'Cross-origin request blocked',
    );
    expect(refusal({ host, origin: 'http://localhost@evil.example' }, {}, method)).toBe(
      'Cross-origin request blocked',
    );
    for (const origin of ['http://localhost:3000', 'https://127.0.0.1', 'http://[::1]:8080'])
      expect(refusal({ host, origin }, {}, method)).toBeUndefined();
  },
);

test('reads from a foreign origin are served, without leave to look at them', () => {
  expect(refusal({ host: 'localhost', origin: 'https://evil.example' }, {}, 'GET')).toBeUndefined();
});

test('configured origins may send writes', () => {
  const rules = { corsAllowedOrigins: ['https://ui.example.com', 'https://*.corp'] };
  expect(refusal({ host: 'localhost', origin: 'https://ui.example.com' }, rules)).toBeUndefined();
  expect(refusal({ host: 'localhost', origin: 'https://a.corp' }, rules)).toBeUndefined();
  expect(refusal({ host: 'localhost', origin: 'https://ui.example.com.evil' }, rules)).toBe(
    'Cross-origin request blocked',
  );
});

test('with the checks disabled everything passes', () => {
  expect(
    refusal({ host: 'evil.example', origin: 'https://evil.example' }, { disabled: true }),
  ).toBeUndefined();
});
