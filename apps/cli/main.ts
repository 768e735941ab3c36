#!/usr/bin/env node
/** `longshore <command>`: arguments to a command, what it resolves with or throws to an exit code. */
import { Command, CommanderError, Option } from 'commander';
import { isDebugging } from '../../lib/config.ts';
import { redactUri } from '../../lib/config-values.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import { VERSION } from '../../lib/version.ts';
import { addSettings, settingsFrom } from './options.ts';
import { oneLine, say } from './say.ts';

const EXAMPLES = `
Examples:
  longshore                                          everything on this machine, data in ./longshore-data
  longshore up --port 8080 --workers 4 --artifacts-destination s3://bucket/prefix
  longshore up --store lake=s3://lake/models         transfers may also read from and write to lake
  longshore api --redis-url redis://redis:6379       one role of a larger installation
  longshore doctor --config longshore.json           what is set, and whether everything can be reached
  longshore token ci --scope write >> tokens         a line for --auth-file tokens

Settings: flag, else environment, else --config, else default. \`longshore up --help\` lists them.`;

/** @param done told the exit code; commander's own promise has no room for it */
function program(done: (exit: number) => void): Command {
  const cli = new Command('longshore')
    .description('Moves ML artifacts: MLflow artifact API in front, durable queues and workers behind.')
    .version(VERSION)
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  /** How `up` starts a role: the settings come from the parent, and so does the end. */
  const supervised = (): Option => new Option('--supervised').hideHelp();

  addSettings(
    cli.command('up', { isDefault: true }).description('run everything: Redis, API, workers (default)'),
  )
    // commands are loaded when they run, so that none pays for another's packages
    .action(async (_, command) =>
      done(await (await import('./commands/up.ts')).up(settingsFrom(command).config)),
    );

  addSettings(cli.command('api').description('run the API alone').addOption(supervised())).action(
    async ({ supervised }, command) => {
      const { api, apiChild } = await import('./commands/api.ts');
      done(await (supervised ? apiChild() : api(settingsFrom(command).config)));
    },
  );

  addSettings(cli.command('worker').description('run one worker process').addOption(supervised())).action(
    async ({ supervised }, command) => {
      const { worker, workerChild } = await import('./commands/worker.ts');
      done(await (supervised ? workerChild() : worker(settingsFrom(command).config)));
    },
  );

  addSettings(
    cli.command('doctor').description('show the settings and try Redis, ledger, staging and every store'),
  )
    .option('--json', 'one JSON object instead of lines for people')
    .action(async ({ json }, command) => {
      const { doctor } = await import('./commands/doctor.ts');
      done(await doctor(settingsFrom(command), json === true));
    });

  cli
    .command('token')
    .description('make a line for the auth file')
    .argument('<name>', 'whose it is')
    .requiredOption('--scope <scopes...>', 'read, write, operate or admin')
    .option(
      '--prefix <paths...>',
      'artifact paths that it is good for, each with everything below; none: all',
      [],
    )
    .option(
      '--password',
      'keep the hash of a password, read from standard input, instead of making a token',
      false,
    )
    .action(async (name: string, options) => {
      const { token } = await import('./commands/token.ts');
      done(await token(name, options));
    });
  return cli;
}

/** Else the default command would be told off for an argument that was meant as a command. @throws Failure `invalid` */
function refuseUnknown(cli: Command, given: string | undefined): void {
  const names = [...cli.commands.map((command) => command.name()), 'help'];
  if (given === undefined || given.startsWith('-') || names.includes(given)) return;
  throw new Failure('invalid', `there is no command '${redactUri(given)}'; there are ${names.join(', ')}`);
}

/** One line, and the exit code that goes with it. */
function tell(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const message = error.message.replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' ');
    say(`${message}; \`longshore --help\` shows what there is`);
    return new Failure('invalid', message).rule.exit;
  }
  const failure = failureOf(error);
  const hint =
    failure.kind === 'bug' && !isDebugging() ? ' (a fault of Longshore: LONGSHORE_DEBUG=1 shows where)' : '';
  say(oneLine(failure) + hint);
  if (isDebugging()) process.stderr.write(`${String((error as Error)?.stack ?? error)}\n`);
  return failure.rule.exit;
}

// a reader that left early, or a terminal that went away, is no fault
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
process.on('uncaughtException', (error) => process.exit(tell(error)));

let exit = 0;
try {
  const cli = program((code) => {
    exit = code;
  });
  refuseUnknown(cli, process.argv[2]);
  await cli.parseAsync();
} catch (error) {
  exit = tell(error);
}
process.exit(exit);
