/** The settings as options of a command. */
import { type Command, Option } from 'commander';
import {
  CONFIG_KEYS,
  type ConfigKey,
  defaultText,
  envNamesOf,
  type LoadedConfig,
  loadConfig,
  optionOf,
} from '../../lib/config.ts';

const collect = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

/** Adds every setting, and `--config`. Values stay as they were typed: reading and refusing them is `loadConfig`'s. */
export function addSettings(command: Command): Command {
  for (const key of CONFIG_KEYS) {
    const { flag, value, group, help, repeatable } = optionOf(key);
    const names = envNamesOf(key).at(-1);
    const option = new Option(
      value === undefined ? `--${flag}` : `--${flag} <${value}>`,
      `${help} [${names}; default: ${defaultText(key)}]`,
    ).helpGroup(`${group}:`);
    if (repeatable) option.argParser(collect);
    command.addOption(option);
  }
  const file = new Option(
    '--config <file>',
    'JSON object of settings, named as the options without dashes in front; flags and environment win [LONGSHORE_CONFIG]',
  );
  return command.addOption(file.helpGroup('Other:'));
}

/** @throws Failure `invalid`, one line */
export function settingsFrom(command: Command): LoadedConfig {
  const typed: Readonly<Record<string, unknown>> = command.opts();
  const flags: Partial<Record<ConfigKey, unknown>> = {};
  for (const key of CONFIG_KEYS) flags[key] = typed[camelCase(optionOf(key).flag)];
  return loadConfig({ flags, file: typed.config as string | undefined });
}

/** As commander names what it parsed. */
const camelCase = (flag: string): string =>
  flag.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase());
