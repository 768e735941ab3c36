/** Routes declare zod schemas; what does not fit is refused with a sentence that names the field and what is right. */
import { isUtf8 } from 'node:buffer';
import type { FastifyInstance, FastifyRequest, FastifyTypeProvider } from 'fastify';
import { z } from 'zod';
import { Digester, type ExpectedDigests } from '../../lib/digests.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import { sendContinue } from './body.ts';
import { hasBody, refuseTrailers } from './body-headers.ts';
import { expectedDigests } from './digest-headers.ts';

/** Gives a handler its request's types from the route's schemas. */
export interface ZodTypes extends FastifyTypeProvider {
  readonly validator: this['schema'] extends z.ZodType ? z.output<this['schema']> : unknown;
  readonly serializer: this['schema'] extends z.ZodType ? z.input<this['schema']> : unknown;
}

declare module 'fastify' {
  interface FastifySchema {
    /** For `/openapi.json`. */
    readonly summary?: string;
    readonly description?: string;
    readonly tags?: readonly string[];
    /** Media type and description of a body that is no JSON. */
    readonly bytes?: { readonly takes?: string; readonly gives?: string };
    /** Answers without a schema: status → what it means. */
    readonly answers?: Readonly<Record<string, string>>;
    /** Request headers that the route knows, by name. */
    readonly takesHeaders?: Readonly<Record<string, string>>;
  }
}

const MAX_JSON_BYTES = 256 * 1024;

/** The instance with zod validation and a JSON parser, for the routes of one plugin. */
export function withZod(app: FastifyInstance) {
  app.removeAllContentTypeParsers();
  app.addHook('preParsing', (request, reply, payload, done) => {
    if (!takesJson(request)) return done(null, payload);
    try {
      refuseUnread(request);
      sendContinue(request.raw, reply.raw);
      done(null, payload);
    } catch (error) {
      done(failureOf(error));
    }
  });
  const options = { parseAs: 'buffer', bodyLimit: MAX_JSON_BYTES } as const;
  app.addContentTypeParser<Buffer>('application/json', options, (request, bytes, done) => {
    try {
      refuseTrailers(request.raw);
      demandDigests(bytes, expectedDigests(request.headers));
      done(null, bytes.length === 0 ? undefined : jsonOf(bytes));
    } catch (error) {
      done(failureOf(error));
    }
  });
  app.setValidatorCompiler<z.ZodType>(({ schema, httpPart }) => (given: unknown) => {
    const parsed = schema.safeParse(given);
    if (parsed.success) return { value: parsed.data };
    return { error: new Failure('invalid', refusal(schema, given, httpPart ?? 'body', parsed.error)) };
  });
  app.setSerializerCompiler(() => (answer) => JSON.stringify(answer));
  return app.withTypeProvider<ZodTypes>();
}

/** Whether a body of this request would be JSON: what is under `/api/v1` and takes no bytes. */
export const takesJson = ({ method, routeOptions: { url, schema } }: FastifyRequest): boolean =>
  url?.startsWith('/api/v1/') === true &&
  schema?.bytes?.takes === undefined &&
  method !== 'GET' &&
  method !== 'HEAD';

/** What can be said of a body before it is asked for. @throws Failure `invalid` */
function refuseUnread({ raw, headers }: FastifyRequest): void {
  if (Number(headers['content-length'] ?? 0) > MAX_JSON_BYTES)
    throw new Failure('invalid', `the body is larger than ${MAX_JSON_BYTES} bytes`);
  const expected = expectedDigests(headers);
  if (!hasBody(raw)) demandDigests(Buffer.alloc(0), expected);
}

/** @throws Failure `invalid` where `bytes` are not those that were announced */
function demandDigests(bytes: Uint8Array, expected: ExpectedDigests | undefined): void {
  if (expected === undefined) return;
  const digester = new Digester(expected);
  digester.update(bytes);
  const { mismatch } = digester.end();
  if (mismatch)
    throw new Failure(
      'invalid',
      `nothing was done: the ${mismatch.name} of the body is ${mismatch.actual}, not ${mismatch.expected} as was declared`,
    );
}

/** @throws Failure `invalid` */
function jsonOf(bytes: Buffer): unknown {
  if (!isUtf8(bytes)) throw new Failure('invalid', 'the body is not JSON: it is not valid UTF-8');
  try {
    return JSON.parse(bytes.toString('utf8'), refuseProto);
  } catch (error) {
    throw error instanceof Failure ? error : new Failure('invalid', `the body is not JSON${placeOf(error)}`);
  }
}

/** Where it is wrong. The parser's own words repeat a piece of the body, which may be an address with a signature. */
function placeOf(error: unknown): string {
  const position = error instanceof Error ? / at position \d+/.exec(error.message) : null;
  return position ? position[0] : '';
}

/** As a field it would be passed over in silence. */
function refuseProto(key: string, value: unknown): unknown {
  if (key === '__proto__')
    throw new Failure('invalid', "the body is wrong: no field can be called '__proto__'");
  return value;
}

const PARTS: Readonly<Record<string, string>> = {
  body: 'body',
  querystring: 'query',
  params: 'path',
  headers: 'headers',
};

/** One sentence for all that is wrong. */
function refusal(schema: z.ZodType, given: unknown, httpPart: string, error: z.ZodError): string {
  if (httpPart === 'body' && (given === undefined || given === null)) return 'a JSON body is missing';
  const where = PARTS[httpPart] ?? httpPart;
  const query = httpPart === 'querystring';
  const sentences = error.issues.map(
    (issue) => (query && twice(given, issue)) || sentence(schema, given, issue),
  );
  return `the ${where} is wrong: ${sentences.join('; ')}`;
}

/** A parameter that is there several times and may not be. */
function twice(given: unknown, { path }: z.core.$ZodIssue): string | undefined {
  const [name, more] = path;
  if (typeof given !== 'object' || given === null || name === undefined || more !== undefined)
    return undefined;
  return Array.isArray(Reflect.get(given, name)) ? `${String(name)}: give it once` : undefined;
}

function sentence(schema: z.ZodType, given: unknown, issue: z.core.$ZodIssue): string {
  // a parameter that may be repeated is named as it is written
  const path =
    issue.path.length === 2 && typeof issue.path[1] === 'number' ? issue.path.slice(0, 1) : issue.path;
  const field = path.map(String).join('.');
  if (issue.code === 'unrecognized_keys') {
    const unknown = issue.keys.map((key) => `'${key}'`).join(', ');
    const known = field === '' ? knownFields(schema, given) : undefined;
    return `${field === '' ? '' : `${field}: `}unknown ${unknown}${known ? `, it may have ${known.join(', ')}` : ''}`;
  }
  if (issue.code === 'invalid_key' || issue.code === 'invalid_element')
    return `${field}: ${issue.issues.map((inner) => inner.message).join(', ')}`;
  return field === '' ? issue.message : `${field}: ${issue.message}`;
}

/** Names of the fields that an object of this schema may have; of a union, those of the member that was meant. */
function knownFields(schema: z.ZodType, given: unknown): readonly string[] | undefined {
  if (schema instanceof z.ZodObject) return Object.keys(schema.shape);
  if (!(schema instanceof z.ZodDiscriminatedUnion)) return undefined;
  const discriminator = schema.def.discriminator;
  const member = schema.options.find(
    (option): option is z.ZodObject =>
      option instanceof z.ZodObject &&
      typeof given === 'object' &&
      given !== null &&
      (option.shape[discriminator] as z.ZodType | undefined)?.safeParse(Reflect.get(given, discriminator))
        .success === true,
  );
  return member && Object.keys(member.shape);
}
