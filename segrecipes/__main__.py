from segrecipes.commands.cli import main

if __name__ == '__main__':
    main()
