/** Routes declare zod schemas; what does not fit is refused with a sentence that names the field and what is right. */
import type { FastifyInstance, FastifyTypeProvider } from 'fastify';
import { z } from 'zod';
import { Failure } from '../../lib/errors.ts';

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
    /** Request headers that the route knows, by name. */
    readonly takesHeaders?: Readonly<Record<string, string>>;
  }
}

const MAX_JSON_BYTES = 256 * 1024;

/** The instance with zod validation and a JSON parser, for the routes of one plugin. */
export function withZod(app: FastifyInstance) {
  app.removeAllContentTypeParsers();
  const options = { parseAs: 'string', bodyLimit: MAX_JSON_BYTES } as const;
  app.addContentTypeParser<string>(/^application\/json\b/i, options, (_request, text, done) => {
    try {
      done(null, text === '' ? undefined : JSON.parse(text));
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      done(new Failure('invalid', `the body is not JSON: ${why}`));
    }
  });
  app.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume();
    done(new Failure('invalid', 'the body must be JSON, sent with Content-Type: application/json'));
  });
  app.setValidatorCompiler<z.ZodType>(({ schema, httpPart }) => (given: unknown) => {
    const parsed = schema.safeParse(given);
    if (parsed.success) return { value: parsed.data };
    return { error: new Failure('invalid', refusal(schema, given, httpPart ?? 'body', parsed.error)) };
  });
  app.setSerializerCompiler(() => (answer) => JSON.stringify(answer));
  return app.withTypeProvider<ZodTypes>();
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
  return `the ${where} is wrong: ${error.issues.map((issue) => sentence(schema, given, issue)).join('; ')}`;
}

function sentence(schema: z.ZodType, given: unknown, issue: z.core.$ZodIssue): string {
  const field = issue.path.map(String).join('.');
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
