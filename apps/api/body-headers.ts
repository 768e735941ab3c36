/**
 * Request headers that say what a body means, and which a server cannot pass over: bytes that are kept as if the header
 * were not there are other bytes than the client sent. What is not done is refused, with the status that names it,
 * before a byte of the body is read and before a client that waits for `100 Continue` is told to send.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { FAILURES, Failure } from '../../lib/errors.ts';

/** Why a request is refused that no failure kind stands for. */
export interface HeaderRefusal {
  readonly status: 400 | 415 | 417 | 501;
  /** MLflow's `error_code`. */
  readonly code: string;
  readonly message: string;
}

const INVALID = FAILURES.invalid.mlflow;
const WRITES = new Set(['PUT', 'POST', 'PATCH']);
const PLAIN_TRANSFERS = new Set(['binary', '8bit', '7bit']);
/** What would be passed over if it came behind the body, where nobody looks for it any more. */
const NO_TRAILER =
  /^(content-(?!type$|length$).*|digest|repr-digest|transfer-encoding|x-amz-checksum-.*|x-goog-hash)$/;

/** Pieces of a file, each with its range. */
const PIECES = /^\s*multipart\/byteranges\b/i;

/** @param jsonRoute whether a body of this route is JSON */
export function refusedHeaders(req: IncomingMessage, jsonRoute: boolean): HeaderRefusal | undefined {
  const { headers } = req;
  if (headers.expect !== undefined && !allMembers(headers.expect, (one) => one === '100-continue'))
    return { status: 417, code: INVALID, message: 'The only Expect that is understood is 100-continue' };
  const framing = headers['transfer-encoding'];
  if (framing !== undefined && framing.trim().toLowerCase() !== 'chunked')
    return {
      status: 501,
      code: FAILURES.unsupported.mlflow,
      message: 'Transfer-Encoding: only chunked is understood; send the body without another coding',
    };
  if (framing !== undefined && req.httpVersionMinor === 0)
    return invalid('Transfer-Encoding: HTTP/1.0 has none; send Content-Length');
  if (!hasBody(req) && !WRITES.has(req.method ?? '')) return undefined;
  return (
    refusedCoding(headers) ??
    refusedPiece(headers) ??
    refusedTrailer(headers.trailer) ??
    refusedType(req, jsonRoute)
  );
}

const invalid = (message: string): HeaderRefusal => ({ status: 400, code: INVALID, message });
const unsupportedType = (message: string): HeaderRefusal => ({ status: 415, code: INVALID, message });

/** Whether the head announces a body. */
export const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined ||
  (headers['content-length'] !== undefined && headers['content-length'] !== '0');

function refusedCoding(headers: IncomingHttpHeaders): HeaderRefusal | undefined {
  const coding = headers['content-encoding'];
  if (coding !== undefined && !allMembers(coding, (one) => one === 'identity'))
    return unsupportedType(
      'Content-Encoding: only identity is accepted; send the bytes as they are to be kept, without a coding',
    );
  const transfer = headers['content-transfer-encoding'];
  if (transfer !== undefined && !allMembers(String(transfer), (one) => PLAIN_TRANSFERS.has(one)))
    return unsupportedType('Content-Transfer-Encoding: only binary is accepted; send the bytes as they are');
  const inChunks = String(headers['x-amz-content-sha256'] ?? '').startsWith('STREAMING-')
    ? 'x-amz-content-sha256'
    : ['x-amz-decoded-content-length', 'x-amz-trailer'].find((name) => headers[name] !== undefined);
  return inChunks === undefined
    ? undefined
    : unsupportedType(`${inChunks}: chunks of S3 are not understood; send the bytes as they are to be kept`);
}

/** One piece would replace the whole. */
function refusedPiece(headers: IncomingHttpHeaders): HeaderRefusal | undefined {
  const complete = headers['upload-complete'];
  const name =
    headers['content-range'] !== undefined
      ? 'Content-Range'
      : headers['upload-offset'] !== undefined
        ? 'Upload-Offset'
        : complete !== undefined && String(complete).trim() !== '?1'
          ? 'Upload-Complete'
          : undefined;
  return name === undefined
    ? undefined
    : invalid(`${name}: a body is sent as a whole, not in pieces; send all of it in one request`);
}

function refusedTrailer(announced: string | undefined): HeaderRefusal | undefined {
  if (announced === undefined || allMembers(announced, (one) => !NO_TRAILER.test(one))) return undefined;
  return invalid(trailerMessage(announced));
}

const trailerMessage = (name: string): string =>
  `Trailer: ${name} is not looked at behind a body; send it before the body, as a header`;

/**
 * To be called when the body has ended: a trailer may come unannounced.
 * @throws Failure `invalid` for one that says what the body means
 */
export function refuseTrailers({ trailers }: IncomingMessage): void {
  for (const name in trailers)
    if (NO_TRAILER.test(name.toLowerCase())) throw new Failure('invalid', trailerMessage(name));
}

function refusedType(req: IncomingMessage, jsonRoute: boolean): HeaderRefusal | undefined {
  if (!hasBody(req)) return undefined;
  // not from `req.headers`, which has the first only, and none where the route passes over it
  const types = req.rawHeaders.filter(
    (_, at) => req.rawHeaders[at - 1]?.toLowerCase() === 'content-type' && at % 2 === 1,
  );
  if (!jsonRoute)
    return types.some((type) => PIECES.test(type))
      ? unsupportedType(
          'Content-Type: a body is sent as a whole, not in pieces; send all of it in one request',
        )
      : undefined;
  if (types.length > 1) return invalid('Content-Type: send it once');
  const [type = '', ...parameters] = (req.headers['content-type'] ?? '').split(';');
  if (type.trim().toLowerCase() !== 'application/json')
    return unsupportedType('the body must be JSON, sent with Content-Type: application/json');
  for (const parameter of parameters) {
    const [name = '', value = ''] = parameter.trim().toLowerCase().split('=');
    if (name === 'charset' && !/^("utf-?8"|utf-?8)$/.test(value))
      return unsupportedType('Content-Type: the only charset of JSON that is accepted is utf-8');
  }
  return undefined;
}

/** Whether each member of a comma-separated list, in small letters, passes; repeated headers are one list. */
const allMembers = (list: string, passes: (member: string) => boolean): boolean =>
  list
    .split(',')
    .map((member) => member.trim().toLowerCase())
    .every((member) => member === '' || passes(member));
