/** The thread of `HashThread`: answers in the order it was asked. */
import { parentPort } from 'node:worker_threads';
import { Digester, type DigestsTaken } from '../digests.ts';
import type { HashReply, HashRequest } from './hashing.ts';

const bodies = new Map<number, Digester>();
const reply = (body: number, answer: number | DigestsTaken): void =>
  parentPort?.postMessage({ body, answer } satisfies HashReply);

parentPort?.on('message', (request: HashRequest) => {
  const { body } = request;
  if (request.ask === 'begin') {
    bodies.set(body, new Digester(request.expected));
    return;
  }
  // unknown: begun in a thread that ended; whoever asked there was told
  const digester = bodies.get(body);
  if (request.ask === 'update') digester?.update(request.bytes);
  else if (request.ask === 'part' && digester) reply(body, digester.takePartCrc());
  else {
    bodies.delete(body);
    if (request.ask === 'end' && digester) reply(body, digester.end());
  }
});
